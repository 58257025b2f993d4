# SPDX-License-Identifier: GPL-2.0
"""iommufd instead of type1, on a kernel that has it."""

from migrate import cases
from migrate.backend import IOMMUFD
from migrate.plan import Plan, versions
from migrate.settings import Settings
from migrate.wait import Trouble

KINDS = {
    "cdev": "iommufd, by /dev/vfio/devices",
    "descriptors": "iommufd, by descriptors that QEMU gets",
}


async def logged(stage):
    """The guest migrates, and QEMU gets the dirty pages from the device's DMA log."""
    await cases.live(stage)
    source, _, _ = stage.fixture.results[-1]
    with open(source.path("trace"), encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if "dirty" in line]
    for line in lines[:3]:
        stage.say(line.strip())
    if not lines:
        raise Trouble("the trace has no look at dirty pages")


PLANS = [
    Plan(f"{prefix}_{kind}", Settings(qemu=qemu, backend=kind), (logged, cases.trips), group="backends",
         feature=feature, needs=IOMMUFD, seconds=100)
    for prefix, qemu in versions("10", "11") for kind, feature in KINDS.items()
]
