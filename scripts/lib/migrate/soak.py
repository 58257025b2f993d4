# SPDX-License-Identifier: GPL-2.0
"""The soak: random guests migrate in random ways, and every byte is verified.

Each guest has a seed, which decides all about it. So `--seed N --guests 1` repeats a guest.
"""

import collections
import os
import random
import shutil
import time
import traceback

from migrate import host_memory
from migrate import host_state
from migrate import phases
from migrate import transport
from migrate.fixture import Fixture, keep
from migrate.migration import Way
from migrate.settings import Settings
from migrate.version import VERSIONS
from migrate.wait import Emulation, Trouble

# Migrations of a guest.
FEWEST, MOST = 8, 16
# Guests that fill caches of the host, before its memory is compared.
WARM = 3
# A migration in this many is disturbed.
DISTURBED = 6


def chosen(rng):
    """Returns settings of a random guest."""
    qemu = rng.choice(list(VERSIONS))
    driver = rng.choices(("mdma", "mserial"), (5, 1))[0]
    if driver == "mserial":
        return Settings(qemu=qemu, driver=driver, sizes=("1",), irq="intx", devices=rng.randint(1, 2))
    devices = rng.choices((1, 2, 3), (5, 2, 1))[0]
    return Settings(qemu=qemu, irq=rng.choice(("msix", "msi", "intx")), devices=devices,
                    sizes=rng.choices((("16M",), ("256M",), ("16M", "256M")), (4, 1, 1))[0],
                    seed=rng.randrange(1 << 32),
                    peers=devices > 1 and qemu != "7.2" and rng.random() < 0.3,
                    backing=rng.choices(("anonymous", "memfd", "tmpfs", "numa"), (5, 1, 1, 1))[0],
                    ordinary_user=rng.random() < 0.15,
                    append=(f"guest.rate={rng.choice((20, 100, 400))}",
                            # Most of the time of a migration goes by what the guest writes and compares.
                            f"guest.memory={rng.choices(('8M', '32M', '64M'), (6, 1, 1))[0]}",
                            f"guest.device={rng.choices(('4M', '16M'), (6, 1))[0]}"))


def way(rng, settings):
    """Returns a random way of a migration."""
    new = settings.qemu != "7.2"
    # An ordinary user may not open everything that these need.
    kinds = [transport.Unix] * 3 + [transport.Tcp, transport.Fd]
    if not settings.ordinary_user:
        kinds += [transport.Exec, transport.ExecFile, transport.TlsPsk] + ([transport.File] if new else [])
    kind = rng.choice(kinds)
    capabilities, parameters = [], []
    if kind in (transport.Unix, transport.Tcp) and rng.random() < 0.3:
        capabilities.append("multifd")
        parameters += [("multifd_channels", rng.randint(1, 4)),
                       ("multifd_compression", rng.choice(("none", "zlib", "zstd")))]
    elif rng.random() < 0.2:
        capabilities.append("xbzrle")
    if new and kind in (transport.Unix, transport.Tcp) and rng.random() < 0.3:
        capabilities.append("switchover-ack")
    return Way(kind, tuple(capabilities), tuple(parameters), stopped=rng.random() < 0.1)


class Soak:
    """Counts, and what the host held after each guest."""

    def __init__(self, options, module, work, out):
        self.options = options
        self.module = module
        self.work = work
        self.out = out
        self.migrations = collections.Counter()
        self.disturbed = collections.Counter()
        self.verified = 0
        self.guests = 0
        self.seen = []

    async def run(self):
        """Runs until the time is over or a guest fails. Returns the exit status."""
        options = self.options
        end = time.monotonic() + options.hours * 3600
        seed = options.seed
        while self.guests < options.guests if options.guests else time.monotonic() < end:
            for _ in range(3):
                try:
                    await self.guest(seed)
                    break
                except Emulation as trouble:
                    print(f"  boots another guest: {trouble}", flush=True)
                except Trouble as trouble:
                    return self.fails(seed, str(trouble))
                except Exception:  # pylint: disable=broad-except
                    return self.fails(seed, traceback.format_exc())
            else:
                return self.fails(seed, "the emulator's bug hit three guests")
            self.guests += 1
            self.seen.append((self.guests, host_memory.look()))
            seed += 1
        return self.sums_up()

    def fails(self, seed, why):
        """Says what failed, and how to repeat it."""
        self.say()
        print(f"\nFAILED: {why}\nrepeat it: scripts/migrate soak --seed {seed} --guests 1", flush=True)
        return 1

    def sums_up(self):
        """Prints the figures. Returns the exit status."""
        self.say()
        for line in host_memory.lines(self.seen):
            print(f"  {line}")
        try:
            if len(self.seen) > WARM:
                host_memory.check(self.seen[WARM - 1][1], self.seen[-1][1])
        except Trouble as trouble:
            print(f"\nFAILED: {trouble}", flush=True)
            return 1
        return 0

    def say(self):
        """Prints the counts."""
        counts = ", ".join(f"{count} with QEMU {qemu}" for qemu, count in sorted(self.migrations.items()))
        disturbed = ", ".join(f"{count} {what}" for what, count in sorted(self.disturbed.items())) or "none"
        print(f"\n  {sum(self.migrations.values())} migrations of {self.guests} guests ({counts}); disturbed: "
              f"{disturbed}; {self.verified} jobs verified", flush=True)

    async def guest(self, seed):
        """Boots a guest, migrates it many times, and ends it."""
        rng = random.Random(seed)
        settings = chosen(rng)
        self.module.load(settings.drivers)
        print(f"  guest with seed {seed}: {settings.words()}", flush=True)
        directory = os.path.join(self.work, f"seed-{seed}")
        before = host_state.look()
        passed = False
        try:
            async with Fixture(settings, directory) as fixture:
                await fixture.boot()
                for _ in range(rng.randint(FEWEST, MOST)):
                    await self.step(rng, fixture)
                self.verified += (await fixture.end())["verified"]
            host_state.check(before)
            passed = True
        finally:
            if not passed:
                keep(directory, os.path.join(self.out, os.path.basename(directory)))
            shutil.rmtree(directory, ignore_errors=True)

    async def step(self, rng, fixture):
        """Disturbs a migration or not, and then migrates."""
        qemu = fixture.settings.qemu
        if rng.randrange(DISTURBED) == 0:
            await self.disturb(rng, fixture)
        route = way(rng, fixture.settings)
        print(f"    {fixture.running.name} by {route.transport.__name__}, {', '.join(route.capabilities) or 'plain'}"
              f"{', stopped' if route.stopped else ''}", flush=True)
        if route.stopped:
            await fixture.running.execute("stop")
        await fixture.migrate(way=route)
        await fixture.guest.verify(fixture.running)
        fixture.nothing_refused("the guest migrated")
        self.migrations[qemu] += 1

    async def disturb(self, rng, fixture):
        """Cancels a migration, or kills its destination."""
        phase = rng.choice((phases.RAM, phases.DEVICE, phases.SWITCHOVER))
        if fixture.settings.driver != "mdma":
            phase = phases.RAM
        what = rng.choice(("cancelled", "killed"))
        print(f"    {fixture.running.name}: {what} {phases.WORDS[phase]}", flush=True)
        destination, migration = await phases.reach(fixture, phase)
        destination.expected_end = True
        if what == "cancelled":
            await fixture.running.execute("migrate_cancel")
            await migration.must("cancelled", [fixture.guest])
            await fixture.drop(destination)
        else:
            await phases.kill_destination(fixture, migration, phase)
        await fixture.goes_on()
        self.disturbed[what] += 1
