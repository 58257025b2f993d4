# SPDX-License-Identifier: GPL-2.0
"""The tests. Each starts with a working guest, and leaves one unless it is the last."""

import asyncio

from migrate import host_memory
from migrate import report
from migrate import timeline
from migrate.guest import Wrong
from migrate.guest_memory import OfDevice, OfGuest
from migrate.migration import Way
from migrate.phases import device_data
from migrate.wait import Trouble

# The first round trips fill caches of the host.
WARM = 5

# The guest chooses its jobs at random, so a short migration may see none of a kind.
ATTEMPTS = 4


async def grows(fixture, name, result):
    """Waits until a total of the guest is larger than when it left the source of the migration."""
    await fixture.guest.reaches(name, result.during.get(name, 0) + 1, fixture.running)


async def live(stage):
    """A working guest migrates, and continues to work: it does each kind of job before, during and after it."""
    fixture, guest = stage.fixture, stage.fixture.guest
    # The device must work while it is saved.
    kinds = ["verified"]
    kinds += ["by_key"] if fixture.settings.registers_memory else []
    kinds += ["peer"] if fixture.settings.peers else []
    kinds += ["moved"] if "guest.remap=1" in fixture.settings.append else []
    for _ in range(ATTEMPTS):
        for name in kinds:
            await guest.reaches(name, 1, fixture.running)
        result = await fixture.migrate()
        fixture.nothing_refused("the guest migrated")
        await guest.verify(fixture.running)
        for name in kinds:
            await grows(fixture, name, result)
        missing = [name for name in kinds if report.phases(name, result, guest.totals)[1] == 0]
        if not missing:
            break
        stage.say(f"the guest verified no job of {', '.join(missing)} during the migration: it migrates once more")
    else:
        raise Trouble(f"the guest verified no job of {', '.join(missing)} during the last of {ATTEMPTS} migrations")
    source = fixture.results[-1][0]
    for name, value in report.table(source, result, fixture.guest.totals):
        stage.say(f"{name:<28} {value:>24}")


async def round_trip(stage):
    """A working guest migrates to the other side and back."""
    fixture = stage.fixture
    for _ in range(2):
        await fixture.migrate()
        await fixture.guest.verify(fixture.running)
    fixture.nothing_refused("the guest migrated")
    stage.say(f"{fixture.guest.verified} jobs verified")


async def trips(stage):
    """Round trips, which do not leak memory on the host."""
    fixture = stage.fixture
    seen = []
    for number in range(1, stage.options.trips + 1):
        await fixture.migrate(beats=2)
        await fixture.guest.verify(fixture.running)
        # On the way back, nothing writes memory before all of it is compared.
        await fixture.migrate_held()
        await fixture.guest.verify(fixture.running)
        await fixture.guest.work(fixture.running, 2)
        if stage.options.trips > WARM:
            # Let RCU free what waits for a grace period.
            await asyncio.sleep(1)
        seen.append((number, host_memory.look()))
        stage.progress(f"round trip {number}: {fixture.guest.verified} jobs verified")
    for line in host_memory.lines(seen):
        stage.say(line)
    stage.say(f"{2 * len(seen)} migrations, {fixture.guest.verified} jobs verified")
    if len(seen) > WARM:
        host_memory.check(seen[WARM - 1][1], seen[-1][1])


async def refuses_other_memory(stage, way=Way()):
    """A destination whose device has a different memory size fails, and the source continues."""
    fixture = stage.fixture
    host = fixture.hosts[fixture.other]
    wrong = [host.device(fixture.settings.driver, f"wrong{number}", "256M")
             for number in range(fixture.settings.devices)]
    try:
        destination = await fixture.launch(fixture.other, incoming=True, using=wrong)
        destination.expected_end = True
        migration = fixture.migration(destination, way)
        await migration.begin()
        await migration.must("failed", [fixture.guest])
        await fixture.drop(destination)
        stage.say(f"the source said: {migration.info.get('error-desc', 'no reason')}; {fixture.running.words()}")
        stage.say(f"the destination said: {destination.words()}")
        # The module must refuse the data, not only QEMU.
        await fixture.goes_on()
    finally:
        for qemu in fixture.qemus:
            if qemu.alive() and any(device in wrong for device in qemu.devices):
                await fixture.drop(qemu)
        for device in wrong:
            device.remove()


async def other_memory(stage):
    """The same, and then the guest migrates to a device with the same size."""
    await refuses_other_memory(stage)
    await stage.fixture.migrate()


async def stops_and_goes_on(stage):
    """A stop and a continue in pre-copy end the device's save, which QEMU does not notice."""
    fixture = stage.fixture

    async def stop_and_continue(migration):
        await device_data(migration, fixture)
        # Too slow for the migration to complete while the guest is stopped.
        await fixture.running.execute("migrate-set-parameters", max_bandwidth=4 << 20)
        await fixture.running.execute("stop")
        await fixture.running.execute("cont")
        told = [device.status()["state"] for device in fixture.running.devices]
        stage.say(f"after stop and cont: {', '.join(told)}")
        if any(state != "RUNNING" for state in told):
            raise Trouble(f"the save of the device did not end: {told}")
        await fixture.guest.work(fixture.running, 2)
        await migration.let_end()

    await restarted_save(stage, stop_and_continue)


async def reboots(stage):
    """A reset of the guest in pre-copy ends the device's save."""
    fixture = stage.fixture
    since = len(fixture.guest.events)

    async def reset(migration):
        await device_data(migration, fixture)
        # Too slow for the migration to complete before the guest has booted: migration of a guest
        # that runs its firmware is not tested here.
        await fixture.running.execute("migrate-set-parameters", max_bandwidth=64 << 10)
        await fixture.running.reset()
        fixture.guest.rebooted()

    if fixture.settings.protocol == "v1":
        async def reset_and_end(migration):
            await reset(migration)
            await fixture.guest.next("ready", fixture.running, since)
            await migration.let_end()

        await restarted_save(stage, reset_and_end)
    else:
        # QEMU notices that the save has ended, and fails the migration.
        destination = await fixture.launch(fixture.other, incoming=True)
        destination.expected_end = True
        migration = fixture.migration(destination)
        await migration.begin(downtime_limit=1)
        await reset(migration)
        await migration.must("failed", [fixture.guest])
        stage.say(f"the source said: {fixture.running.words()}")
        await fixture.drop(destination)
    await fixture.guest.next("ready", fixture.running, since)
    await fixture.guest.verify(fixture.running)
    if fixture.settings.protocol != "v1":
        await fixture.goes_on()
        await fixture.migrate()


async def restarted_save(stage, meanwhile):
    """Migrates while `meanwhile` restarts the device's save: the destination loads the second stream."""
    fixture = stage.fixture
    result = await fixture.migrate(meanwhile=meanwhile, downtime_limit=1)
    await fixture.guest.verify(fixture.running)
    restarted = [device.loaded["load_restarted"] for device in result.devices]
    stage.say(f"streams that replaced an earlier one: {restarted}")
    if 0 in restarted:
        raise Trouble("the destination got only one stream, so the restart was not tested")


async def interrupts(stage):
    """The guest gets interrupts of its type before and after a migration."""
    fixture = stage.fixture
    await fixture.guest.reaches("interrupts", 1, fixture.running)
    ready = next(event for event in fixture.guest.events if event["event"] == "ready")
    if ready["irq"] != fixture.settings.irq:
        raise Trouble(f"the guest uses {ready['irq']}, not {fixture.settings.irq}")
    result = await fixture.migrate()
    await grows(fixture, "interrupts", result)
    during = result.during["interrupts"]
    stage.say(f"{during} interrupts before, {fixture.guest.totals['interrupts'] - during} after")
    await grows(fixture, "interrupts", await fixture.migrate())


async def copied_rings(stage):
    """The guest's ring cannot be pinned: the log says why, once per open, and the device works."""
    fixture = stage.fixture
    errno = "ENOMEM" if fixture.settings.ordinary_user else "EFAULT"

    def check():
        for device in fixture.running.devices:
            lines = [line for line in fixture.copied if device.uuid in line]
            if len(lines) != 1 or errno not in lines[0]:
                raise Trouble(f"the log has {lines} about {device.name}, expected one line with {errno}")

    check()
    await live(stage)
    check()


async def is_refused(stage):
    """QEMU refuses a device that must migrate below a vIOMMU, and says why."""
    try:
        await stage.fixture.boot()
    except Trouble as trouble:
        stage.say(str(trouble))
        if "vIOMMU" in str(trouble):
            stage.finds("refused", str(trouble))
            return
        raise
    raise Trouble("QEMU migrates a device below a vIOMMU")


async def is_blocked(stage, words, whose):
    """QEMU refuses to migrate, and says these words; the guest works on."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    try:
        await fixture.migration(destination).begin()
    except Trouble as trouble:
        if words not in str(trouble):
            raise
        stage.finds("refused", str(trouble), whose)
    else:
        raise Trouble(f"QEMU migrates, and does not say {words}")
    await fixture.drop(destination)
    await fixture.goes_on()


async def registered(stage):
    """A guest that has registered 256 MiB, and writes 1 % of that, migrates: each look of type1 reports all of it."""
    fixture = stage.fixture
    # Until all is registered, and some of it was used.
    await fixture.guest.reaches("by_key", 20, fixture.running)
    await live(stage)
    source, _, result = fixture.results[-1]
    dirty = timeline.passes(source, result)
    stage.say(f"dirty pages of each pass: {', '.join(map(str, dirty))}")
    sent = result.info["ram"]["normal"]
    stage.say(f"pages sent: {sent}; limit of the downtime at the end: {result.limit_ms} ms")


async def notices(stage):
    """Mutation test: the guest notices each of --migrations migrations in which the module loses memory.

    In a migration in which the device writes nothing that was sent before, nothing can be lost, and the module says so.
    """
    fixture = stage.fixture
    number, lost, noticed = 0, 0, 0
    kind = OfDevice if "memory-page" in stage.plan.module else OfGuest
    memory = kind(fixture.log, fixture.settings)
    while lost < stage.options.migrations and number < 3 * stage.options.migrations:
        number += 1
        await fixture.guest.work(fixture.running)
        fixture.log.mutations()
        await fixture.migrate_held(memory.compare)
        pages, gone = memory.pages()
        device, guest = await fixture.guest.mend(fixture.running)
        if device + guest and not gone:
            raise Trouble(f"migration {number}: no page was lost, but the guest noticed {device + guest}")
        lost += bool(gone)
        noticed += bool(device + guest)
        stage.progress(f"migration {number}: {len(pages)} pages left out, {len(gone)} of them lost, the guest "
                       f"noticed {device} pages of device memory and {guest} of its own")
    stage.say(f"{number} migrations: {lost} lost memory, {noticed} were noticed")
    if lost < stage.options.migrations or noticed < lost:
        raise Trouble(f"of {number} migrations {lost} lost memory, and the guest noticed {noticed}")


async def names_the_bar(stage):
    """The guest says which BAR of a device that was plugged in has no address, and what to change."""
    try:
        await stage.fixture.boot()
    except Wrong as wrong:
        stage.say(str(wrong))
        if "BAR 2" in str(wrong) and "pref64-reserve" in str(wrong):
            return
        raise
    raise Trouble("BAR 2 has an address without pref64-reserve")


async def ends(stage):
    """The guest verifies all data and its kernel log, and powers off."""
    ended = await stage.fixture.end()
    stage.say(f"{ended['verified']} jobs verified, {len(stage.fixture.results)} migrations")
    stage.fixture.lost = True
