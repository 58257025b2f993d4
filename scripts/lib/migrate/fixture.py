# SPDX-License-Identifier: GPL-2.0
"""Two sides, A and B, each with its own devices, and a guest that migrates between them."""

import itertools
import os
import shutil
from dataclasses import replace

from migrate import wait
from migrate.echo import Echo
from migrate.guest import Guest, kernel_log
from migrate.host import HERE
from migrate.migration import Device as Moved
from migrate.migration import Migration, Result, Way
from migrate.qemu import Qemu, now
from migrate.wait import Emulation, Trouble

BOOT_DISK = "/image/disk.img"
# Attempts to boot a guest: the emulator's bug hits a guest at its first page faults or
# not at all.
BOOTS = 5
# Attempts to hold a guest before its migration completes.
HOLDS = 5


class Fixture:
    """A guest with the devices of side A, and the devices of side B."""

    def __init__(self, settings, directory, show=None, name="", hosts=None):
        self.settings = settings
        # The machines of both sides.
        self.hosts = hosts or {"A": HERE, "B": HERE}
        self.directory = directory
        # Tells its devices from those of another fixture.
        self.name = name
        self.show = show
        self.sides = {}
        # Devices that the guest's program does not use.
        self.beside = {}
        # The other ends of serial lines.
        self.echoes = []
        self.launched = 0
        self.qemus = []
        self.guest = None
        self.running = None
        self.results = []
        # The logs of both machines. `log` is that of side A.
        self.logs = []
        self.log = None
        # The number of the guest's events when it was told to hold.
        self.told = None
        # Log lines about rings that are copied because they cannot be pinned.
        self.copied = []
        # Whether the guest has ended, whether it did so in a test that failed, and how many guests there were.
        self.lost = False
        self.failed = False
        self.guests = 0

    async def __aenter__(self):
        os.makedirs(self.directory)
        self.logs = [host.log() for host in dict.fromkeys(self.hosts.values())]
        self.log = self.logs[0]
        for side, host in self.hosts.items():
            sizes = self.settings.sizes
            self.sides[side] = [host.device(self.settings.driver, f"{self.name}{side}{number}",
                                            sizes[number % len(sizes)]) for number in range(self.settings.devices)]
            self.beside[side] = [host.device(driver, f"{self.name}{side}beside{number}", size)
                                 for number, (driver, size) in enumerate(self.settings.beside)]
        if self.settings.boots_from_disk:
            for device in self.sides["A"]:
                device.load_disk(BOOT_DISK)
        if self.settings.driver == "mserial":
            self.echoes = [Echo.of(ends) for ends in zip(*self.sides.values())]
        return self

    async def __aexit__(self, *_error):
        for qemu in self.qemus:
            await qemu.kill()
        for echo in self.echoes:
            await echo.close()
        for device in itertools.chain(*self.sides.values(), *self.beside.values()):
            device.remove()
        for log in self.logs:
            log.close()

    # ---- parts ---------------------------------------------------------------------

    async def launch(self, side, incoming=False, using=None, **settings):
        """Starts a QEMU on this side, with these devices or its own, and with some settings changed."""
        self.launched += 1
        if side == "B" and self.settings.other_qemu:
            settings = {"qemu": self.settings.other_qemu, **settings}
        changed = replace(self.settings, **settings)
        chosen = (using or self.sides[side])[:changed.devices]
        qemu = Qemu(f"{self.name}{side}{self.launched}", changed, chosen, self.directory, self.beside[side],
                    self.settings.devices, self.hosts[side])
        self.qemus.append(qemu)
        await qemu.start(incoming)
        await self.guest.connect(qemu)
        return qemu

    async def boot(self):
        """Boots the guest on side A, and waits until it works."""
        for left in range(BOOTS - 1, -1, -1):
            for echo in self.echoes:
                echo.forget()
            self.guests += 1
            log = "guest.json" if self.guests == 1 else f"guest.{self.guests}.json"
            self.guest = Guest(f"{self.directory}/{log}", self.show and self.show.guest)
            self.running = await self.launch("A")
            try:
                if self.settings.hot_plug:
                    await self.guest.next("waiting", self.running, 0)
                    await self.running.plug()
                ready = await self.guest.next("ready", self.running, 0)
                break
            except Emulation as trouble:
                print(f"# boots again: {trouble}", flush=True)
                await self.running.kill()
                if left == 0:
                    raise
        if ready["devices"] != self.settings.devices:
            raise Trouble(f"the guest found {ready['devices']} of {self.settings.devices} devices")
        await self.guest.work(self.running)
        self.nothing_refused("QEMU started")

    async def boots_at_destination(self, what, text):
        """Starts a guest on side A, and migrates it when its console prints a text, before it is ready.

        Returns the QEMU at which it has begun, and the event `ready`.
        """
        self.guest = Guest(f"{self.directory}/guest.json")
        self.running = source = await self.launch("A")
        await source.until_printed(what, text, [self.guest])
        await self.migrate()
        ready = self.guest.first("ready", 0)
        if ready["at"] == source.name:
            raise Trouble("the guest had booted before the migration")
        return source, ready

    async def again(self):
        """Boots another guest in place of one that was lost."""
        for qemu in self.qemus:
            await qemu.kill()
        self.told = None
        self.refusals()
        self.copied = []
        await self.boot()
        self.lost = self.failed = False

    def refusals(self):
        """Returns the lines in which a module explains a refusal, since the last call."""
        return [line for log in self.logs for line in log.refusals()]

    def nothing_refused(self, when):
        """Raises if the module logged a refusal since the last call."""
        lines = self.refusals()
        if self.settings.copies_rings:
            self.copied += [line for line in lines if "cannot be pinned" in line]
            lines = [line for line in lines if line not in self.copied]
        if lines:
            raise Trouble(f"when {when} the kernel logged: {'; '.join(lines)}")

    @property
    def side(self):
        """The side of the guest."""
        return self.running.name.removeprefix(self.name)[0]

    @property
    def other(self):
        """The side without the guest."""
        return "B" if self.side == "A" else "A"

    def migration(self, destination, way=Way()):
        """Returns a migration of the guest to `destination`."""
        return Migration(self.settings, self.running, destination, f"{self.directory}/{destination.name}.migration",
                         way, self.show and self.show.migration)

    # ---- operations ----------------------------------------------------------------

    async def migrate(self, beats=3, meanwhile=None, compare=None, way=Way(), **parameters):
        """Migrates the guest to the other side, and waits until it works there, or only runs if it is held.

        Runs `meanwhile` in between, and `compare` when the guest is at the destination and its memory still at the
        source.
        """
        guest, source = self.guest, self.running
        destination = await self.launch(self.other, incoming=True, **way.settings)
        before = dict(guest.totals)
        migration = self.migration(destination, way)
        await migration.begin(**parameters)
        if meanwhile:
            await meanwhile(migration)
        status = await migration.ended([guest, destination])
        if status != "completed":
            raise Trouble(f"the migration {status}: {migration.info.get('error-desc', 'no reason given')}; "
                          f"{source.name}: {source.words()}; {destination.name}: {destination.words()}")
        result = Result(migration.info, [], migration.begun, now(), before, {},
                        self.settings.downtime_ms << migration.raised, migration.samples)
        if way.stopped:
            await wait.until("the destination to load everything", destination.has_loaded, [destination])
        else:
            await wait.until("the destination to run", destination.is_running, [guest, destination])
        for saved, loaded in zip(source.devices, destination.devices, strict=True):
            result.devices.append(Moved(saved.status(), loaded.status()))
        if compare:
            await compare(source, destination)
        await source.quit()
        result.during = dict(guest.totals)
        last = guest.events[-1]["time"] if guest.events else now()
        since = len(guest.events)
        await guest.moved(source, destination)
        self.running = destination
        if way.stopped:
            if await destination.is_running():
                raise Trouble("the guest runs at the destination, although it was to be stopped")
            await destination.execute("cont")
        if self.told is None and not way.idle:
            await guest.work(destination, beats)
        else:
            await guest.next("beat", destination, since)
        result.silence = guest.events[since]["time"] - last
        for device in result.devices:
            device.check()
        migration.check_protocol()
        self.results.append((source, destination, result))
        return result

    async def migrate_held(self, compare=None):
        """Migrates the guest, which does its last jobs when the devices have sent their memory once.

        So a page that is lost is not written again before the guest has compared it: the caller
        makes the guest verify or mend all data.
        """
        for _ in range(HOLDS):
            self.told = None
            result = await self.migrate(meanwhile=self.hold, compare=compare, downtime_limit=1,
                                        max_bandwidth=32 << 20)
            told, self.told = self.told, None
            if told is None:
                continue
            if self.guest.first("held", told):
                return result
            # It completed first. The command may have been lost with the source.
            self.guest.send("hold")
            await self.guest.next("held", self.running, told)
            await self.guest.mend(self.running)
            # What was left out in this migration does not count.
            self.nothing_refused("the guest migrated")
        raise Trouble(f"each of {HOLDS} migrations completed before the guest was held")

    async def hold(self, migration):
        """Holds the guest in pre-copy, and lets the migration complete."""

        def sent(device):
            status = device.status()
            # No page is dirty yet when a save begins.
            return status["state"] == "PRE_COPY" and status["pre_copy_pages"] > status["populated_pages"] * 3 // 4

        async def once():
            return all(sent(device) for device in self.running.devices)

        async def held():
            return self.guest.first("held", self.told)

        try:
            await migration.until("the devices to send their memory once", once, [self.guest])
            # 4 KiB/ms: the guest dirties more, so the migration does not complete before it is held.
            await self.running.execute("migrate-set-parameters", max_bandwidth=4 << 20)
            self.told = len(self.guest.events)
            self.guest.send("hold")
            await migration.until("the guest to be held", held, [self.guest])
        except Trouble:
            # On a busy host the guest may dirty too little. A guest that is held dirties nothing.
            if migration.info.get("status") != "completed":
                raise
            return
        await migration.let_end()

    async def drop(self, destination):
        """Ends a destination that did not get the guest."""
        await destination.kill()
        self.guest.forget(destination)

    async def goes_on(self):
        """Raises unless the guest works at the source and verifies all data."""
        if not await self.running.is_running():
            raise Trouble(f"the source is not running but {await self.running.status()}")
        for device in self.running.devices:
            state = device.status()["state"]
            if state != "RUNNING":
                raise Trouble(f"the source's device is in state {state}, not RUNNING")
        await self.guest.work(self.running)
        await self.guest.verify(self.running)

    async def end(self):
        """Ends the guest, which verifies all data first. Returns its last event."""
        ended = await self.guest.end(self.running)
        for qemu in self.qemus:
            kernel_log(qemu.path("console.log"))
        return ended


def keep(directory, out):
    """Copies the logs in a directory to `out`."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            os.makedirs(out, exist_ok=True)
            shutil.copyfile(path, os.path.join(out, name))
