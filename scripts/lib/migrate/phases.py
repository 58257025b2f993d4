# SPDX-License-Identifier: GPL-2.0
"""The phases of a migration, and how a test gets to each."""

import asyncio

from migrate import wait
from migrate.migration import Way
from migrate.transport import Deaf, Unix

# Too slow for the migration to complete.
SLOW = {"max_bandwidth": 2 << 20, "downtime_limit": 1}
# Stops the guest at once, however much is left to send.
AT_ONCE = {"downtime_limit": 2000000}

# Setup: the destination does not answer yet. RAM: pre-copy, before the device has sent memory. Device: pre-copy, after
# it has. Switch-over: the guest is stopped, and the device not yet. Stop: the device is stopped.
SETUP, RAM, DEVICE, SWITCHOVER, STOP = "setup", "ram", "device", "switchover", "stop"
# Words for the support table.
WORDS = {SETUP: "in setup", RAM: "in pre-copy, before device data", DEVICE: "in pre-copy, after device data",
         SWITCHOVER: "at the switch-over", STOP: "while the device is stopped"}


async def device_data(migration, fixture, state="PRE_COPY"):
    """Waits until each device is in this state and has sent some of its memory."""

    async def sent():
        told = [device.status() for device in fixture.running.devices]
        return all(one["state"] == state and one["pre_copy_pages"] + one["stop_copy_pages"] for one in told)

    await migration.until(f"device data in {state}", sent, [fixture.guest])


async def reach(fixture, phase):
    """Begins a migration, and waits until it is in this phase. Returns the destination and the migration."""
    destination = await fixture.launch(fixture.other, incoming=True)
    migration = fixture.migration(destination, Way(Deaf if phase == SETUP else Unix))
    if phase == SETUP:
        await migration.begin(**SLOW)
    elif phase == RAM:
        await migration.begin(**SLOW)

        async def some_ram():
            return migration.info.get("ram", {}).get("transferred", 0) > 1 << 20

        await migration.until("pre-copy", some_ram, [fixture.guest, destination])
    elif phase == DEVICE:
        await migration.begin(downtime_limit=1)
        await device_data(migration, fixture)
        # Too slow for the migration to complete.
        await fixture.running.execute("migrate-set-parameters", max_bandwidth=1 << 20)
    else:
        await migration.begin(["pause-before-switchover"], **AT_ONCE)
        await migration.until("the switch-over", "pre-switchover", [fixture.guest, destination])
        if phase == STOP:
            await stop(fixture, destination, migration)
    return destination, migration


async def kill_destination(fixture, migration, phase):
    """Kills the destination in this phase, so that the migration fails."""
    await fixture.drop(migration.destination)
    if phase == SWITCHOVER:
        # The source writes nothing before that, so it does not notice.
        await fixture.running.execute("migrate-continue", state="pre-switchover")
    if migration.continued:
        await migration.continued
    await migration.must("failed", [fixture.guest])


async def stop(fixture, destination, migration):
    """Continues at the switch-over, to a destination that does not read."""
    # So the migration cannot complete. The source's monitor does not answer, since QEMU writes the end of the stream
    # with its lock held.
    destination.pause()
    migration.continued = asyncio.ensure_future(fixture.running.execute("migrate-continue", state="pre-switchover"))
    await wait.until("the source's device to stop", lambda: all(
        device.status()["state"] in ("STOP_COPY", "STOP") for device in fixture.running.devices))
    await asyncio.sleep(1)
