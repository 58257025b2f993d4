# SPDX-License-Identifier: GPL-2.0
"""iommufd instead of type1, on a kernel that has it."""

from migrate import cases
from migrate.backend import IOMMUFD
from migrate.plan import Plan, versions
from migrate.settings import Settings
from migrate.wait import Trouble

KINDS = {
    "cdev": "iommufd, by /dev/vfio/devices",
    "iommufd-fd": "iommufd, whose descriptor QEMU gets",
}


async def logged(stage):
    """The guest migrates, and QEMU gets the dirty pages from the device's DMA log."""
    await cases.live(stage)
    source, _, _ = stage.fixture.results[-1]
    with open(source.path("trace"), encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if "vfio_device_dirty_tracking" in line]
    if not lines:
        raise Trouble("QEMU has not started the device's log of dirty pages")
    stage.say(lines[-1].strip())


async def is_not_known(stage):
    """By a descriptor, QEMU does not know that a device is an mdev, and asks for the IOMMU that it has not."""
    try:
        await stage.fixture.boot()
    except Trouble as trouble:
        if "hardware info" not in str(trouble):
            raise
        stage.finds("refused", str(trouble))
        return
    raise Trouble("QEMU takes an mdev by its descriptor")


PLANS = [
    *(Plan(f"{prefix}_{kind.replace('-', '_')}", Settings(qemu=qemu, backend=kind), (logged, cases.trips),
           group="backends", feature=feature, needs=IOMMUFD, seconds=100)
      for prefix, qemu in versions("10", "11") for kind, feature in KINDS.items()),
    *(Plan(f"{prefix}_descriptors", Settings(qemu=qemu, backend="descriptors"), (is_not_known,), group="backends",
           feature="iommufd and devices by descriptors that QEMU gets", needs=IOMMUFD, boots=False, whole=False,
           seconds=5)
      for prefix, qemu in versions("10", "11")),
]
