# SPDX-License-Identifier: GPL-2.0
"""What the memory of a guest is, and whose: memory that type1 cannot pin."""

import os
import resource
import shutil

from migrate.device import run

# Where the file system for the memory is.
EXT4 = "/tmp/ext4"

# The user and group `nobody`.
NOBODY = 65534


def make_ext4(version, size):
    """Mounts an ext4 of this size, made by the tools beside a QEMU, once."""
    if os.path.ismount(EXT4):
        return
    for module in ("loop", "ext4"):
        run(["modprobe", module])
    os.makedirs(EXT4, exist_ok=True)
    run(["truncate", "-s", size, f"{EXT4}.img"])
    run([*(["chroot", version.root] if version.root else []), "mkfs.ext4", "-q", "-F", f"{EXT4}.img"])
    run(["mount", "-o", "loop", f"{EXT4}.img", EXT4])
    if version.root:
        # Its /tmp was bound before.
        run(["mount", "--bind", EXT4, version.root + EXT4])


def options(settings, name):
    """The options of a QEMU for the guest's memory; the machine's own option is added to."""
    if settings.backing == "anonymous":
        return "q35", []
    path = f"{EXT4}/{name}"
    return "q35,memory-backend=ram", [
        "-object", f"memory-backend-file,id=ram,size={settings.memory},mem-path={path},share=on"]


def forget(name):
    """Removes the memory of a QEMU that has ended."""
    if os.path.exists(f"{EXT4}/{name}"):
        os.remove(f"{EXT4}/{name}")


def own(devices, directory):
    """Gives the user all that QEMU opens."""
    paths = ["/dev/kvm", directory]
    for device in devices:
        group = os.path.basename(os.path.realpath(f"{device.sysfs}/iommu_group"))
        paths.append(f"/dev/vfio/{group}")
    for path in paths:
        shutil.chown(path, NOBODY, NOBODY)


def lock_nothing():
    """In the child, before it becomes QEMU."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
