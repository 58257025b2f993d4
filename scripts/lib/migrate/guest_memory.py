# SPDX-License-Identifier: GPL-2.0
"""Guest memory that type1 cannot pin: a shared file on ext4, or that of a user who may lock none."""

import contextlib
import os
import resource
import shutil

from migrate.device import run

# The mount point of the file system for guest memory.
EXT4 = "/tmp/ext4"

PAGE = 4096

# The user and group `nobody`.
NOBODY = 65534


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


def options(settings, name):
    """Returns QEMU's -machine option, and further options for guest memory."""
    if settings.backing == "anonymous":
        return "q35", []
    path = f"{EXT4}/{name}"
    return "q35,memory-backend=ram", [
        "-object", f"memory-backend-file,id=ram,size={settings.memory},mem-path={path},share=on"]


def forget(name):
    """Removes the memory file of a QEMU that has ended."""
    if os.path.exists(f"{EXT4}/{name}"):
        os.remove(f"{EXT4}/{name}")


class Memories:
    """The memory of a guest at both ends of a migration."""

    def __init__(self, settings):
        self.size = int(settings.memory.removesuffix("M")) << 20
        self.pages = set()

    async def compare(self, *qemus):
        """Reads the memory of these QEMUs, and notes the pages that differ."""
        paths = []
        for qemu in qemus:
            path = qemu.path("memory")
            await qemu.execute("pmemsave", val=0, size=self.size, filename=path)
            paths.append(path)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in paths]
            for page in range(0, self.size, PAGE):
                if len({file.read(PAGE) for file in files}) > 1:
                    self.pages.add(page)
        for path in paths:
            os.remove(path)

    def differing(self, pages):
        """Returns those of these pages, by address, that are not the same everywhere."""
        return [page for page in pages if page in self.pages]


def own(devices, directory):
    """Makes `nobody` the owner of everything that QEMU opens."""
    paths = ["/dev/kvm", directory]
    for device in devices:
        group = os.path.basename(os.path.realpath(f"{device.sysfs}/iommu_group"))
        paths.append(f"/dev/vfio/{group}")
    for path in paths:
        shutil.chown(path, NOBODY, NOBODY)


def lock_nothing():
    """Forbids locked memory. Runs in the child before it executes QEMU."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
