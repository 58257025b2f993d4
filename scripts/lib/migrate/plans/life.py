# SPDX-License-Identifier: GPL-2.0
"""What can happen to source and destination meanwhile."""

import asyncio

from migrate import cases
from migrate import phases
from migrate.fixture import Fixture
from migrate.migration import Way
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings
from migrate.wait import Trouble


async def stopped_source(stage):
    """The guest is stopped before it migrates, and continues at the destination."""
    fixture = stage.fixture
    await fixture.running.execute("stop")
    await fixture.migrate(way=Way(stopped=True))
    await fixture.guest.verify(fixture.running)


async def stopped_destination(stage):
    """The destination has -S: the guest stays stopped there until it is told to run."""
    fixture = stage.fixture
    await fixture.migrate(way=Way(stopped=True, settings={"words_of_destination": ("-S",)}))
    await fixture.guest.verify(fixture.running)


async def is_cancelled(stage, phase):
    """The migration is cancelled, and the guest continues at the source."""
    fixture = stage.fixture
    destination, migration = await phases.reach(fixture, phase)
    destination.expected_end = True
    await fixture.running.execute("migrate_cancel")
    await migration.must("cancelled", [fixture.guest])
    await fixture.drop(destination)
    await fixture.goes_on()


async def is_cancelled_too_late(stage):
    """A migration that has completed is cancelled, which changes nothing."""
    fixture = stage.fixture

    async def cancel(source, _destination):
        await source.execute("migrate_cancel")
        status = await source.migration_status()
        if status != "completed":
            raise Trouble(f"the migration was completed, and is {status} after migrate_cancel")

    await fixture.migrate(compare=cancel)
    await fixture.guest.verify(fixture.running)


async def source_dies(stage, phase):
    """The source is killed: the destination ends with an error, and its device works for the next guest."""
    fixture = stage.fixture
    destination, migration = await phases.reach(fixture, phase)
    destination.expected_end = True
    await fixture.running.kill()
    if migration.continued:
        await asyncio.wait([migration.continued])
        migration.continued.exception()
    destination.resume()
    status = await destination.ended()
    stage.say(f"the destination ended with {status}: {destination.words()}")
    fixture.lost = True
    if status == 0:
        raise Trouble("the destination ended with 0")
    await fixture.again()
    await fixture.migrate()
    await fixture.guest.verify(fixture.running)


async def destination_dies(stage, phase):
    """The destination is killed, and the guest continues at the source."""
    fixture = stage.fixture
    destination, migration = await phases.reach(fixture, phase)
    stage.say("killed in " + ", ".join(device.status()["state"] for device in fixture.running.devices))
    await phases.kill_destination(fixture, migration, phase)
    await fixture.goes_on()
    await fixture.migrate()


async def crosses(stage):
    """Two guests migrate at the same time, in opposite directions."""
    fixture = stage.fixture
    async with Fixture(fixture.settings, f"{fixture.directory}/other", name="other-") as other:
        await other.boot()
        await other.migrate()
        for _ in range(2):
            await asyncio.gather(fixture.migrate(), other.migrate())
            for each in (fixture, other):
                await each.guest.verify(each.running)
        ended = await other.end()
        stage.say(f"the other guest: {ended['verified']} jobs verified")


async def many_trips(stage, count):
    """The guest goes there and back many times."""
    for number in range(1, count + 1):
        await stage.fixture.migrate(beats=2)
        await stage.fixture.guest.verify(stage.fixture.running)
        stage.progress(f"migration {number}: {stage.fixture.guest.verified} jobs verified")


def plan(prefix, qemu):
    """Returns the plan of a QEMU version."""
    tests = [
        case("stopped_source", "a stopped guest", stopped_source),
        case("stopped_destination", "a destination with -S", stopped_destination),
    ]
    for phase in (phases.SETUP, phases.RAM, phases.DEVICE, phases.SWITCHOVER):
        tests.append(case(f"cancelled_{phase}", f"cancelled {phases.WORDS[phase]}", is_cancelled, phase=phase))
    tests.append(case("cancelled_completed", "cancelled when completed", is_cancelled_too_late))
    for phase in (phases.SETUP, phases.RAM, phases.DEVICE, phases.SWITCHOVER, phases.STOP):
        tests.append(case(f"destination_dies_{phase}", f"the destination killed {phases.WORDS[phase]}",
                          destination_dies, phase=phase))
    for phase in (phases.SETUP, phases.RAM, phases.DEVICE, phases.SWITCHOVER, phases.STOP):
        tests.append(case(f"source_dies_{phase}", f"the source killed {phases.WORDS[phase]}", source_dies,
                          phase=phase))
    if qemu == "7.2":
        tests.append(case("stops_and_goes_on", "stopped and continued in pre-copy", cases.stops_and_goes_on))
    tests.append(case("crosses", "two guests that cross", crosses))
    tests.append(case("twenty", "there and back ten times", many_trips, count=20))
    return Plan(f"{prefix}_life", Settings(qemu=qemu, append=SMALL), tuple(tests), group="life",
                seconds=25 * len(tests) + 200)


PLANS = [
    Plan("v1_msix", Settings(append=SMALL), (cases.live, cases.trips, cases.other_memory), group="life",
         feature="migrates, there and back", seconds=110, always=True),
    Plan("v2_qemu11_msix", Settings(qemu="11", append=SMALL), (cases.live,), group="life",
         feature="migrates, there and back", seconds=70, always=True),
    Plan("v2_qemu10_switchover_ack",
         Settings(qemu="10", capabilities=(*Settings().capabilities, "switchover-ack")),
         (cases.live, cases.interrupts, cases.trips, cases.other_memory),
         group="life", feature="migrates, there and back", seconds=180),
    *(plan(prefix, qemu) for prefix, qemu in versions()),
]
