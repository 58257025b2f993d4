# SPDX-License-Identifier: GPL-2.0
"""Runs a command with libvirt's root as the root of its mount namespace, as on a machine that booted from it.

libvirt enters the namespace of a QEMU to make its /dev, and would leave a chroot by that.
"""

import os
import sys

from libvirt.daemon import ROOT
from migrate.device import run


def path():
    """Returns where the root is mounted, for a process without a chroot."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return next(point for point in (line.split()[4] for line in file) if point.endswith(ROOT))


def switch():
    """Makes the root that of a new mount namespace."""
    os.unshare(os.CLONE_NEWNS)
    # Entering a namespace leaves the chroot.
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    os.setns(namespace, os.CLONE_NEWNS)
    os.close(namespace)
    os.chdir(path())
    run(["mount", "-o", "move", ".", "/"])
    os.chroot(".")


if __name__ == "__main__":
    switch()
    os.execvp(sys.argv[1], sys.argv[1:])
