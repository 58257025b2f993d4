# SPDX-License-Identifier: GPL-2.0
"""What the guest's memory is on."""

from migrate import cases
from migrate import wait
from migrate.plan import Plan, versions
from migrate.settings import SMALL, Settings

KINDS = {
    "memfd": "memfd, shared",
    "tmpfs": "a file on tmpfs, shared",
    "hugetlb": "huge pages of 2 MiB",
    "numa": "two NUMA nodes",
    "ext4": "a file on ext4, shared: the device copies its rings",
}

# 256 MiB of guest memory for the device, of which 1 % is written.
LARGE = ("guest.memory=256M", "guest.written=2560K")
# Each look reports all that is registered, and a slow host sends little in a short downtime.
ENOUGH_MS = 5000

BALLOON = ("-device", "virtio-balloon-pci,id=balloon,bus=pcie.0,addr=0x14")


async def inflate(stage, mebibytes):
    """Waits until the balloon has left the guest this much memory."""
    qemu = stage.fixture.running
    await qemu.execute("balloon", value=mebibytes << 20)

    async def inflated():
        return (await qemu.execute("query-balloon"))["actual"] == mebibytes << 20

    await wait.until(f"{mebibytes} MiB to be left to the guest", inflated, [stage.fixture.guest])


async def balloons(stage):
    """The balloon takes memory from the guest, before a migration and meanwhile, and gives it back after it."""
    fixture = stage.fixture
    await inflate(stage, 240)

    async def take_more(migration):
        await inflate(stage, 224)
        await migration.let_end()

    # Too slow for the migration to complete before the balloon has taken its memory.
    await fixture.migrate(meanwhile=take_more, max_bandwidth=64 << 10, downtime_limit=1)
    await fixture.guest.verify(fixture.running)
    await inflate(stage, 256)
    await fixture.guest.work(fixture.running)
    await fixture.guest.verify(fixture.running)


PLANS = [
    *(Plan(f"{prefix}_memory_on_{kind}", Settings(qemu=qemu, backing=kind, append=SMALL),
           (cases.copied_rings if kind == "ext4" else cases.live,), group="memory", feature=feature, seconds=60)
      for prefix, qemu in versions() for kind, feature in KINDS.items()
      # Only the root of QEMU 10 has mkfs.
      if kind != "ext4" or qemu == "10"),
    *(Plan(f"{prefix}_balloon", Settings(qemu=qemu, append=SMALL, words_of_qemu=BALLOON), (balloons,), group="memory",
           feature="virtio-balloon", seconds=60)
      for prefix, qemu in versions()),
    *(Plan(f"{prefix}_{name}",
           Settings(qemu=qemu, memory="768M", downtime_ms=ENOUGH_MS, append=(*LARGE, f"guest.registered={size}")),
           (cases.registered,), group="memory", feature=f"{size} registered of 256 MiB", seconds=seconds)
      for prefix, qemu in versions("10", "11")
      for name, size, seconds in (("registered", "256M", 200), ("not_registered", "256K", 90))),
]
