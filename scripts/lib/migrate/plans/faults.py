# SPDX-License-Identifier: GPL-2.0
"""Faults on demand: what QEMU does if a call of a migration fails or takes long."""

import asyncio
import re
from dataclasses import dataclass

from migrate import wait
from migrate.guest import Wrong
from migrate.phases import AT_ONCE
from migrate.plan import Plan, versions
from migrate.settings import Settings
from migrate.wait import Trouble


@dataclass(frozen=True)
class Fault:
    """A call that fails."""

    point: str
    # Whether the device is that of the destination.
    loads: bool = False
    # Whether the guest is stopped before the fault is set.
    stopped: bool = False

    def __str__(self):
        side = "destination" if self.loads else "source"
        return f"{self.point} at the {side}{', guest stopped' if self.stopped else ''}"


FAULTS = (
    Fault("save"),
    Fault("save", stopped=True),
    Fault("save_record", stopped=True),
    Fault("load", loads=True),
    Fault("load_record", loads=True, stopped=True),
)
STOP = Fault("stop")
RUN = Fault("run", loads=True)


async def migrate(fixture, fault):
    """Begins a migration with this fault. Returns the destination, the migration, and the devices that fail."""
    destination = await fixture.launch(fixture.other, incoming=True)
    destination.expected_end = True
    migration = fixture.migration(destination)
    devices = destination.devices if fault.loads else fixture.running.devices
    if not fault.stopped:
        for device in devices:
            device.inject(fault.point, fail_nth=1)
        await migration.begin()
        return destination, migration, devices
    await migration.begin(["pause-before-switchover"], **AT_ONCE)
    await migration.until("the switch-over", "pre-switchover", [fixture.guest, destination])
    for device in devices:
        device.inject(fault.point, fail_nth=1)
    # The monitor of the source may not answer before the migration ends.
    told = asyncio.ensure_future(fixture.running.execute("migrate-continue", state="pre-switchover"))
    await asyncio.wait([told], timeout=wait.LIMIT)
    return destination, migration, devices


def lines(qemu):
    """Returns what QEMU has printed, without warnings and without its dump of registers."""
    lines = (re.sub("^[0-9T:.-]+Z qemu-system-x86_64: ", "", line) for line in qemu.words(1000).split(" / "))
    return [line for line in lines if "=" not in line and "warning: " not in line and line != "no word"]


async def perform(stage, fault):
    """Migrates with this fault, and returns the destination when the migration has failed."""
    fixture = stage.fixture
    before = lines(fixture.running)
    destination, migration, devices = await migrate(fixture, fault)
    status = await migration.ended([fixture.guest])
    said = lines(destination) if fault.loads else lines(fixture.running)[len(before):]
    reason = migration.info.get("error-desc", "no reason given")
    stage.say(f"{fault}: {status}: {reason}; QEMU said: {' / '.join(said)}")
    if not all(device.faults(fault.point) for device in devices):
        raise Trouble(f"{fault}: nothing failed")
    refusals = fixture.refusals()
    if not any("fault injection" in line for line in refusals):
        raise Trouble(f"{fault}: the kernel logged {refusals}")
    if status != "failed":
        raise Trouble(f"{fault}: the migration {status}")
    return destination


async def fails(stage):
    """Each call of a migration fails in turn. The migration fails, and the guest continues at the source."""
    fixture = stage.fixture
    # QEMU resets the device if v2 cannot stop it.
    faults = (*FAULTS, STOP) if fixture.settings.protocol == "v1" else FAULTS
    for fault in faults:
        await fixture.drop(await perform(stage, fault))
        await fixture.goes_on()
    await fixture.migrate()


async def stop_fails(stage):
    """The device does not stop. QEMU resets it, and the guest loses what it had."""
    fixture = stage.fixture
    await fixture.drop(await perform(stage, STOP))
    try:
        await fixture.goes_on()
    except Wrong as wrong:
        stage.say(str(wrong))
        return
    raise Trouble("the guest has lost nothing")


async def waits(stage):
    """Each call of a migration takes long. The migration completes."""
    fixture = stage.fixture
    # QEMU loads in pieces of 32 KiB.
    for point, loads, delay in ("save", False, 100), ("stop", False, 100), ("load", True, 10), ("run", True, 100):
        destination = fixture.sides[fixture.other] if loads else fixture.running.devices
        for device in destination:
            device.inject(point, delay_ms=delay)
        result = await fixture.migrate()
        await fixture.guest.verify(fixture.running)
        stage.say(f"{point} takes {delay} ms: downtime {result.info['downtime']} ms")
        for device in destination:
            device.inject(point, delay_ms=0)


async def does_not_run(stage):
    """The device of the destination cannot run."""
    fixture = stage.fixture
    destination, migration, devices = await migrate(fixture, RUN)
    status = await migration.ended([fixture.guest])
    if not all(device.faults("run") for device in devices):
        raise Trouble("nothing failed")
    states = ", ".join(device.status()["state"] for device in devices)
    at_source = (await fixture.running.execute("query-status"))["status"]
    at_destination = (await destination.execute("query-status"))["status"] if destination.alive() else "no more"
    stage.say(f"{RUN}: {status}; the device is in {states}; the guest is {at_source} at the source, {at_destination} "
              f"at the destination; QEMU said: {' / '.join(lines(destination))}")


PLANS = [
    *(Plan(f"{prefix}_faults", Settings(qemu=qemu), (fails, waits, does_not_run), whole=False, seconds=240)
      for prefix, qemu in versions()),
    *(Plan(f"{prefix}_stop", Settings(qemu=qemu), (stop_fails,), whole=False, seconds=40)
      for prefix, qemu in versions("10", "11")),
]
