# SPDX-License-Identifier: GPL-2.0
"""What guest memory is on, and a comparison of it on both sides."""

import contextlib
import os
import re
import resource
import shutil

from migrate import wait
from migrate.device import run, write
from migrate.wait import Trouble

# The mount point of the file system for guest memory.
EXT4 = "/tmp/ext4"
TMPFS = "/dev/shm"
# MiB of a huge page.
HUGE = 2

PAGE = 4096

# The user and group `nobody`.
NOBODY = 65534


def prepare(settings):
    """Makes what the guest's memory is on."""
    if settings.backing == "ext4":
        # Large enough for both sides of a migration.
        make_ext4(settings.version, "1G")
    elif settings.backing == "hugetlb":
        write("/proc/sys/vm/nr_hugepages", str(2 * mebibytes(settings.memory) // HUGE))


def make_ext4(version, size):
    """Creates and mounts an ext4 of this size, once. The root of a QEMU has mkfs."""
    if os.path.ismount(EXT4):
        return
    for module in ("loop", "ext4"):
        run(["modprobe", module])
    os.makedirs(EXT4, exist_ok=True)
    run(["truncate", "-s", size, f"{EXT4}.img"])
    run([*(["chroot", version.root] if version.root else []), "mkfs.ext4", "-q", "-F", f"{EXT4}.img"])
    run(["mount", "-o", "loop", f"{EXT4}.img", EXT4])
    if version.root:
        # /tmp was bound into the root before this mount.
        run(["mount", "--bind", EXT4, version.root + EXT4])


def mebibytes(size):
    """Returns the number in a size like 256M or 4G."""
    return int(size[:-1]) << {"M": 0, "G": 10}[size[-1]]


def options(settings, name):
    """Returns QEMU's -machine option, and further options for guest memory."""
    if settings.backing == "anonymous":
        return settings.machine, []
    if settings.backing == "numa":
        half = mebibytes(settings.memory) // 2
        words = []
        for node in range(2):
            words += ["-object", f"memory-backend-ram,id=ram{node},size={half}M",
                      "-numa", f"node,nodeid={node},memdev=ram{node}"]
        return settings.machine, words
    kind = {
        "memfd": "memory-backend-memfd",
        "hugetlb": "memory-backend-memfd,hugetlb=on,hugetlbsize=2M",
        "tmpfs": f"memory-backend-file,mem-path={TMPFS}/{name}",
        "ext4": f"memory-backend-file,mem-path={EXT4}/{name}",
    }[settings.backing]
    return f"{settings.machine},memory-backend=ram", ["-object", f"{kind},id=ram,size={settings.memory},share=on"]


def forget(name):
    """Removes the memory file of a QEMU that has ended."""
    for directory in (EXT4, TMPFS):
        if os.path.exists(f"{directory}/{name}"):
            os.remove(f"{directory}/{name}")


class OfGuest:
    """The pages of guest memory that a mutated module left out of a migration, and those of them that are lost.

    A page is not lost if QEMU sent it for another reason, such as a write of the guest's processor.
    """

    def __init__(self, log, settings):
        self.log = log
        self.size = mebibytes(settings.memory) << 20
        self.differing = set()

    async def compare(self, *qemus):
        """Reads the memory of these QEMUs, and notes the pages that differ. The module names its pages at close."""
        self.differing = set()
        paths = [await save(qemu, 0, self.size) for qemu in qemus]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in paths]
            for page in range(0, self.size, PAGE):
                if len({file.read(PAGE) for file in files}) > 1:
                    self.differing.add(page)
        for path in paths:
            os.remove(path)

    def pages(self):
        """Returns the pages that were left out, and those that are lost. Call it after the close."""
        pages = left_out(self.log.mutations())
        return pages, [page for page in pages if page in self.differing]


class OfDevice:
    """The same of device memory.

    A page is not lost if the module sends it just after the device has written to it: a save takes the marks of
    pages before it copies them.
    """

    def __init__(self, log, _settings):
        self.log = log
        self.found = [], []

    async def compare(self, *qemus):
        """Compares the pages that were left out. The module names them at the end of a save."""
        lines = []

        def complete():
            more = self.log.mutations()
            lines.extend(more)
            return lines and not more

        await wait.until("the module to name the page that it left out", complete, pause=0.5)
        pages = left_out(lines)
        bases = [await bar2(qemu) for qemu in qemus]
        lost = []
        for page in pages:
            contents = [await read(qemu, base + page * PAGE) for qemu, base in zip(qemus, bases, strict=True)]
            if len(set(contents)) > 1:
                lost.append(page)
        self.found = pages, lost

    def pages(self):
        """Returns the pages that were left out, and those that are lost."""
        return self.found


def left_out(lines):
    """Returns the pages in lines of a mutated module: addresses, or numbers in device memory."""
    pages = (re.search(r"page(?: at)? (0x[0-9a-f]+|[0-9]+)", line) for line in lines if not line.startswith("no page"))
    return [int(page[1], 0) for page in pages]


async def save(qemu, address, size):
    """Saves a part of the guest's physical memory, and returns the path."""
    path = qemu.path("memory")
    await qemu.execute("pmemsave", val=address, size=size, filename=path)
    return path


async def read(qemu, address):
    """Returns a page of the guest's physical memory."""
    path = await save(qemu, address, PAGE)
    with open(path, "rb") as file:
        page = file.read()
    os.remove(path)
    return page


async def bar2(qemu):
    """Returns the guest's physical address of the first device's BAR 2."""
    for bus in await qemu.execute("query-pci"):
        for device in bus["devices"]:
            if device["qdev_id"] == "mdma0":
                return next(region["address"] for region in device["regions"] if region["bar"] == 2)
    raise Trouble(f"{qemu.name} has no device mdma0")


def own(devices, directory):
    """Makes `nobody` the owner of everything that QEMU opens."""
    for path in ("/dev/kvm", directory, *(device.node for device in devices)):
        shutil.chown(path, NOBODY, NOBODY)


def lock_nothing():
    """Forbids locked memory. Runs in the child before it executes QEMU."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
