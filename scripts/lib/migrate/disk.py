# SPDX-License-Identifier: GPL-2.0
"""The tests of a guest whose own NVMe driver runs the device."""

from migrate import report
from migrate import wait
from migrate.guest import Guest
from migrate.wait import Trouble

# What syslinux prints when it begins to read the kernel.
LOADS = b"Loading vmlinuz"


async def there_and_back(stage):
    """The guest migrates and comes back while fio writes and verifies files."""
    fixture = stage.fixture
    ready = fixture.guest.first("ready", 0)
    stage.say(f"{ready['found'][0]}, {ready['irq']}, {ready['jobs']} jobs of depth {ready['depth']}")
    if ready["irq"] != fixture.settings.irq:
        raise Trouble(f"the guest uses {ready['irq']}, not {fixture.settings.irq}")
    for way in ("there", "back"):
        result = await fixture.migrate()
        fixture.nothing_refused(f"the guest migrated {way}")
        during = result.during["verified"] - result.before["verified"]
        interrupts = fixture.guest.totals["interrupts"] - result.during["interrupts"]
        if during <= 0 or interrupts <= 0:
            raise Trouble(f"{way}: {during} reads during the migration, {interrupts} interrupts after it")
        await fixture.guest.verify(fixture.running)
        source = fixture.results[-1][0]
        stage.say(f"{way}:")
        for name, value in report.table(source, result, fixture.guest.totals):
            stage.say(f"{name:<28} {value:>24}")


async def boots_from_it(stage):
    """The firmware boots the guest from the device, and the guest migrates while its kernel is read."""
    fixture = stage.fixture
    fixture.guest = Guest(f"{fixture.directory}/guest.json")
    fixture.running = source = await fixture.launch("A")

    def loads():
        with open(source.path("console.log"), "rb") as file:
            return LOADS in file.read()

    await wait.until("syslinux to load the kernel", loads, [fixture.guest, source])
    await fixture.migrate()
    ready = fixture.guest.first("ready", 0)
    if ready["at"] == source.name:
        raise Trouble("the guest had booted before the migration")
    stage.say(f"loaded at {source.name}, ready at {ready['at']} after {ready['ms']} ms: {ready['found'][0]}")
    await fixture.guest.verify(fixture.running)
    await fixture.migrate()
    await fixture.guest.verify(fixture.running)
