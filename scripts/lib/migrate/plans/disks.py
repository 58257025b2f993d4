# SPDX-License-Identifier: GPL-2.0
"""A guest whose own NVMe driver runs the device."""

import os

from migrate import cases
from migrate import report
from migrate.fixture import BOOT_DISK
from migrate.plan import Plan, versions
from migrate.settings import Settings
from migrate.wait import Trouble

NVME = {"driver": "mnvme", "memory": "512M"}

# What syslinux prints when it begins to read the kernel.
LOADS = b"Loading vmlinuz"
# Bytes of the boot disk before its second partition, on which the guest makes a file system.
BOOT = 113 << 20
# The magic number of ext4, and where it is in the second partition.
MAGIC, MAGIC_AT = b"\x53\xef", 1080


async def verify(stage, way):
    """Makes fio verify the files of the round that the guest did when it was asked."""
    passes = stage.fixture.guest.totals["passes"]
    checked = await stage.fixture.guest.verify(stage.fixture.running)
    if checked["passes"] <= passes:
        raise Trouble(f"{way}: fio verified nothing once more")
    stage.say(f"{way}: {checked['blocks']} blocks verified by fio in {checked['rounds']} rounds and "
              f"{checked['passes']} passes")


async def there(stage):
    """The guest migrates while fio writes and verifies files."""
    ready = stage.fixture.guest.first("ready", 0)
    stage.say(f"{ready['found'][0]}, {ready['irq']}, {ready['jobs']} jobs of depth {ready['depth']}, "
              f"{ready['answers']} answers of nvme-cli")
    if ready["irq"] != stage.fixture.settings.irq:
        raise Trouble(f"the guest uses {ready['irq']}, not {stage.fixture.settings.irq}")
    await travel(stage, "there")


async def back(stage):
    """It comes back in the same way."""
    await travel(stage, "back")


async def travel(stage, way):
    """Migrates the guest, which uses its disk meanwhile and gets interrupts afterwards, and verifies a round of fio."""
    fixture = stage.fixture
    result = await fixture.migrate()
    fixture.nothing_refused(f"the guest migrated {way}")
    # fio verifies in bursts, so a fast migration may see writes only.
    during = result.during["jobs"] - result.before["jobs"]
    if during <= 0:
        raise Trouble(f"{way}: no reads and writes during the migration")
    await cases.grows(fixture, "interrupts", result)
    await verify(stage, way)
    source = fixture.results[-1][0]
    for name, value in report.table(source, result, fixture.guest.totals):
        stage.say(f"{name:<28} {value:>24}")


async def boots_from_it(stage):
    """The firmware boots the guest from the device, and the guest migrates while its kernel is read."""
    fixture = stage.fixture
    source, ready = await fixture.boots_at_destination("syslinux to load the kernel", LOADS)
    stage.say(f"loaded at {source.name}, ready at {ready['at']} after {ready['ms']} ms: {ready['found'][0]}")
    await verify(stage, "there")
    await fixture.migrate()
    await verify(stage, "back")


async def ends_and_is_stored(stage):
    """The guest verifies all data and powers off. Its disk is stored: what it was booted from, and a file system."""
    fixture = stage.fixture
    fixture.lost = True
    ended = await fixture.end()
    stage.say(f"{ended['blocks']} blocks verified by fio, {len(fixture.results)} migrations")
    image = f"{fixture.directory}/stored.img"
    try:
        fixture.running.devices[0].store_disk(image)
        compare(image, BOOT_DISK)
        stage.say(f"stored: {os.stat(image).st_blocks * 512 >> 20} MiB of {os.path.getsize(image) >> 20} MiB")
    finally:
        # The directory is kept as a log.
        if os.path.exists(image):
            os.remove(image)


def compare(image, boot):
    """Raises unless the image has the first partition of the boot disk, and a file system in the second one."""
    with open(image, "rb") as stored, open(boot, "rb") as expected:
        for at in range(0, BOOT, 1 << 20):
            if stored.read(1 << 20) != expected.read(1 << 20):
                raise Trouble(f"the stored image differs from the boot disk in the MiB from {at:#x} on")
        stored.seek(BOOT + MAGIC_AT)
        if stored.read(len(MAGIC)) != MAGIC:
            raise Trouble("the stored image has no file system of the guest")


def plans(prefix, qemu):
    """Yields the plans of a QEMU version."""
    settings = Settings(qemu=qemu, sizes=("64M",), **NVME)
    yield Plan(f"{prefix}_nvme", settings, (there, back, cases.reboots), group="devices", feature="mnvme",
               seconds=140)
    yield Plan(f"{prefix}_nvme_boot", Settings(qemu=qemu, sizes=("256M",), boots_from_disk=True, **NVME),
               (boots_from_it, ends_and_is_stored), whole=False, boots=False, group="devices",
               feature="mnvme that the guest boots from", seconds=150)


PLANS = [
    *(plan for prefix, qemu in versions() for plan in plans(prefix, qemu)),
    Plan("v2_qemu10_nvme_intx", Settings(qemu="10", irq="intx", sizes=("64M",), **NVME), (there, back),
         group="devices", feature="mnvme, INTx", seconds=110),
]
