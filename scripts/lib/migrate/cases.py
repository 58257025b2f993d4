# SPDX-License-Identifier: GPL-2.0
"""The tests, each of which finds a guest that works and leaves one that does."""

import asyncio

from migrate import host_memory
from migrate import report
from migrate import wait
from migrate.device import Device
from migrate.guest import Wrong
from migrate.wait import Trouble

# So slow that the migration cannot end by itself while it is looked at.
SLOW = {"max_bandwidth": 2 << 20, "downtime_limit": 1}
# Stop at once, whatever is left.
AT_ONCE = {"downtime_limit": 2000000}


async def live(stage):
    """The guest moves while it works, and works on."""
    fixture = stage.fixture
    result = await fixture.migrate()
    fixture.nothing_refused("the guest moved")
    await fixture.guest.verify(fixture.running)
    # The device works while it is saved: its last words are later than the begin of the migration.
    if result.during.get("verified", 0) <= result.before.get("verified", 0):
        raise Trouble("the guest verified no job while it was migrated")
    source = fixture.results[-1][0]
    for name, value in report.table(source, result, fixture.guest.totals):
        stage.say(f"{name:<28} {value:>24}")


async def trips(stage):
    """There and back, again and again; the host keeps nothing of it."""
    fixture = stage.fixture
    seen = []
    for number in range(1, stage.options.trips + 1):
        await fixture.migrate(beats=2)
        await fixture.migrate(beats=2)
        await fixture.guest.verify(fixture.running)
        # What is freed after a grace period of RCU.
        await asyncio.sleep(1)
        seen.append((number, host_memory.look()))
        stage.progress(f"round trip {number}: {fixture.guest.verified} jobs verified")
    for line in host_memory.lines(seen):
        stage.say(line)
    stage.say(f"{2 * len(seen)} migrations, {fixture.guest.verified} jobs verified")
    # The first ones fill caches.
    if len(seen) > 5:
        host_memory.check(seen[4][1], seen[-1][1])


async def other_memory(stage):
    """A destination whose device has another size of memory is refused, and the source goes on."""
    fixture = stage.fixture
    wrong = [Device(f"wrong{number}", "256M") for number in range(fixture.settings.devices)]
    try:
        destination = await fixture.launch(fixture.other, incoming=True, devices=wrong)
        destination.expected_end = True
        migration = fixture.migration(destination)
        await migration.begin()
        status = await migration.ended([fixture.guest])
        if status != "failed":
            raise Trouble(f"the migration to a device of another size {status}")
        await fixture.drop(destination)
        stage.say(f"the destination said: {destination.words()}")
        # What it loaded is refused by the module, not only by QEMU.
        await fixture.goes_on()
    finally:
        for qemu in fixture.qemus:
            if qemu.devices is wrong:
                await fixture.drop(qemu)
        for device in wrong:
            device.remove()
    await fixture.migrate()


async def dies_in_pre_copy(stage):
    """The destination dies while the guest still runs at the source, which goes on."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    migration = fixture.migration(destination)
    await migration.begin(**SLOW)

    async def device_in_pre_copy():
        sent = migration.info.get("ram", {}).get("transferred", 0)
        return sent > 1 << 20 and all(device.status()["state"] == "PRE_COPY" for device in fixture.running.devices)

    await migration.until("pre-copy", device_in_pre_copy, [fixture.guest, destination])
    await fixture.guest.work(fixture.running, 2)
    await fixture.drop(destination)
    status = await migration.ended([fixture.guest])
    if status != "failed":
        raise Trouble(f"the destination was killed and the migration {status}")
    await fixture.goes_on()
    await fixture.migrate()


async def dies_in_stop_and_copy(stage):
    """The destination dies while the guest stands still, and the source goes on with it."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    migration = fixture.migration(destination)
    await migration.begin(["pause-before-switchover"], **AT_ONCE)
    await migration.until("the switch-over", "pre-switchover", [fixture.guest, destination])
    # It takes nothing any more, so the source cannot get to the end. Nor can the source's
    # monitor answer: QEMU writes the last part of the stream with its lock held.
    destination.pause()
    told = asyncio.ensure_future(fixture.running.execute("migrate-continue", state="pre-switchover"))
    await wait.until("the source's device to be stopped", lambda: all(
        device.status()["state"] in ("STOP_COPY", "STOP") for device in fixture.running.devices))
    await asyncio.sleep(1)
    stage.say("killed in " + ", ".join(device.status()["state"] for device in fixture.running.devices))
    await fixture.drop(destination)
    await told
    status = await migration.ended([fixture.guest])
    if status != "failed":
        raise Trouble(f"the destination was killed and the migration {status}")
    await fixture.running.execute("migrate-set-capabilities",
                                  capabilities=[{"capability": "pause-before-switchover", "state": False}])
    await fixture.goes_on()
    await fixture.migrate()


async def data_of_the_device(migration, fixture, state="PRE_COPY"):
    """Waits until each device has sent some of its memory in this state, in which it still is."""

    async def sent():
        told = [device.status() for device in fixture.running.devices]
        return all(one["state"] == state and one["pre_copy_pages"] + one["stop_copy_pages"] for one in told)

    await migration.until(f"data of the device in {state}", sent, [fixture.guest])


async def stops_and_goes_on(stage):
    """The guest is stopped and goes on in pre-copy, which ends the device's save without QEMU's knowledge."""
    fixture = stage.fixture

    async def stop_and_go_on(migration):
        await data_of_the_device(migration, fixture)
        # So slow that it cannot end while the guest is stopped.
        await fixture.running.execute("migrate-set-parameters", max_bandwidth=4 << 20)
        await fixture.running.execute("stop")
        await fixture.running.execute("cont")
        told = [device.status()["state"] for device in fixture.running.devices]
        stage.say(f"after stop and cont: {', '.join(told)}")
        if any(state != "RUNNING" for state in told):
            raise Trouble(f"the save of the device goes on: {told}")
        await fixture.guest.work(fixture.running, 2)
        await migration.let_end()

    await begun_anew(stage, stop_and_go_on)


async def reboots(stage):
    """The guest is reset in pre-copy, which ends the device's save."""
    fixture = stage.fixture
    since = len(fixture.guest.events)

    async def reset(migration):
        await data_of_the_device(migration, fixture)
        # So slow that it cannot end before the guest has booted: whether a guest survives a move
        # in the middle of its firmware is QEMU's own matter.
        await fixture.running.execute("migrate-set-parameters", max_bandwidth=64 << 10)
        await fixture.running.reset()
        fixture.guest.rebooted()

    if fixture.settings.protocol == "v1":
        async def reset_and_end(migration):
            await reset(migration)
            await fixture.guest.next("ready", fixture.running, since)
            await migration.let_end()

        await begun_anew(stage, reset_and_end)
    else:
        # QEMU itself finds that the save is over, and gives the migration up.
        destination = await fixture.launch(fixture.other, incoming=True)
        destination.expected_end = True
        migration = fixture.migration(destination)
        await migration.begin(downtime_limit=1)
        await reset(migration)
        status = await migration.ended([fixture.guest])
        if status != "failed":
            raise Trouble(f"the guest was reset and the migration {status}")
        stage.say(f"the source said: {fixture.running.words()}")
        await fixture.drop(destination)
    await fixture.guest.next("ready", fixture.running, since)
    await fixture.guest.verify(fixture.running)
    if fixture.settings.protocol != "v1":
        await fixture.goes_on()
        await fixture.migrate()


async def begun_anew(stage, meanwhile):
    """A migration in which the device's save ends and begins again: the destination takes the second stream."""
    fixture = stage.fixture
    result = await fixture.migrate(meanwhile=meanwhile, downtime_limit=1)
    await fixture.guest.verify(fixture.running)
    restarted = [device.loaded["load_restarted"] for device in result.devices]
    stage.say(f"streams that began after another: {restarted}")
    if 0 in restarted:
        raise Trouble("the destination has seen one stream only: nothing was tested")


async def interrupts(stage):
    """The guest is interrupted before and after the move, by the kind it was booted with."""
    fixture = stage.fixture
    before = fixture.guest.totals.get("interrupts", 0)
    if before == 0:
        raise Trouble("the guest was never interrupted")
    ready = next(event for event in fixture.guest.events if event["event"] == "ready")
    if ready["irq"] != fixture.settings.irq:
        raise Trouble(f"the guest uses {ready['irq']}, not {fixture.settings.irq}")
    result = await fixture.migrate()
    during = result.during["interrupts"]
    await fixture.guest.work(fixture.running)
    if fixture.guest.totals["interrupts"] <= during:
        raise Trouble(f"no interrupt after the move: {during} of them before")
    stage.say(f"{during} interrupts before, {fixture.guest.totals['interrupts'] - during} after")
    result = await fixture.migrate()
    await fixture.guest.work(fixture.running)
    if fixture.guest.totals["interrupts"] <= result.during["interrupts"]:
        raise Trouble("no interrupt after the move back")


async def copied_rings(stage):
    """The guest's ring cannot be pinned: the log says so and why, once for each opening, and all works."""
    fixture = stage.fixture
    errno = "ENOMEM" if fixture.settings.ordinary_user else "EFAULT"

    def check():
        for device in fixture.running.devices:
            lines = [line for line in fixture.copied if device.uuid in line]
            if len(lines) != 1 or errno not in lines[0]:
                raise Trouble(f"of {device.name} the log says {lines} and not once {errno}")

    check()
    await live(stage)
    check()


async def notices(stage):
    """A build of the module that loses a page on the way: the guest has to find out."""
    fixture = stage.fixture
    try:
        for _ in range(4):
            await fixture.migrate()
            await fixture.guest.verify(fixture.running)
    except Wrong as wrong:
        stage.say(str(wrong))
        stage.lost = True
        return
    raise Trouble("a page was lost in each of four migrations, and the guest found all in order")


async def ends(stage):
    """The guest finds every byte as it must be, its kernel's log too, and switches off."""
    ended = await stage.fixture.end()
    stage.say(f"{ended['verified']} jobs verified, {len(stage.fixture.results)} migrations")
    stage.lost = True
