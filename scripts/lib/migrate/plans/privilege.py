# SPDX-License-Identifier: GPL-2.0
"""What QEMU may do."""

from migrate import cases
from migrate import wait
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings

SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
# QEMU, the guest's memory and that of the device fit in. Or the destination gets less than it has to load.
ENOUGH, TOO_LITTLE = "480M", "64M"


async def is_killed(stage):
    """The destination's control group is too small: it is killed, and the guest continues at the source."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True, memory_max=TOO_LITTLE)
    destination.expected_end = True
    group = destination.group
    migration = fixture.migration(destination)
    await migration.begin()
    await wait.until("the limit to kill the destination", group.killed, [fixture.guest])
    await fixture.drop(destination)
    await migration.must("failed", [fixture.guest])
    await fixture.goes_on()


def plans(prefix, qemu):
    """Yields the plans of a QEMU version."""
    yield Plan(f"{prefix}_ordinary_user", Settings(qemu=qemu, ordinary_user=True, append=SMALL), (cases.copied_rings,),
               group="privilege", feature="an ordinary user, RLIMIT_MEMLOCK 0: the device copies its rings",
               seconds=60)
    yield Plan(f"{prefix}_sandbox", Settings(qemu=qemu, words_of_qemu=SANDBOX, append=SMALL), (cases.live,),
               group="privilege", feature="-sandbox on", seconds=60)
    yield Plan(f"{prefix}_memory_group", Settings(qemu=qemu, memory_max=ENOUGH), (
        case("enough", f"a control group of {ENOUGH}", cases.live),
        case("too_little", f"a destination in a control group of {TOO_LITTLE}", is_killed),
    ), group="privilege", seconds=80)


PLANS = [plan for prefix, qemu in versions() for plan in plans(prefix, qemu)]
