# SPDX-License-Identifier: GPL-2.0
"""The rights of the QEMU of a domain on this machine."""

import os
import stat
import subprocess

from libvirt.daemon import ROOT


class Process:
    """A process that libvirt has started for a domain."""

    def __init__(self, domain):
        with open(f"{ROOT}/run/libvirt/qemu/{domain}.pid", encoding="ascii") as file:
            self.directory = f"/proc/{int(file.read())}"
        with open(f"{self.directory}/status", encoding="ascii") as file:
            self.status = {name: value.strip() for name, value in (line.split(":", 1) for line in file)}

    @property
    def user(self):
        """The number of the user."""
        return int(self.status["Uid"].split()[1])

    @property
    def profile(self):
        """The profile of AppArmor, and its mode."""
        with open(f"{self.directory}/attr/current", encoding="ascii") as file:
            return file.read().strip()

    @property
    def locked(self):
        """The number of bytes that it may lock, or "unlimited"."""
        with open(f"{self.directory}/limits", encoding="ascii") as file:
            return next(line.split()[3] for line in file if line.startswith("Max locked memory"))

    def opens(self, path):
        """Opens a path as root, in the cgroup of the process. Returns why not, or nothing."""
        with open(f"{self.directory}/cgroup", encoding="ascii") as file:
            group = file.read().strip().removeprefix("0::")
        done = subprocess.run(
            ["sh", "-c", f"echo $$ >/sys/fs/cgroup{group}/cgroup.procs && exec 3<{path}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.stdout.decode(errors="replace").strip()

    def nodes(self, *names):
        """Returns the devices in the /dev that it sees, in these of its directories."""
        top = f"{self.directory}/root/dev"
        paths = (os.path.join(name, entry) for name in names for entry in os.listdir(f"{top}/{name}"))
        return {path: os.stat(f"{top}/{path}") for path in sorted(map(os.path.normpath, paths))
                if is_device(f"{top}/{path}")}


def is_device(path):
    """Returns whether a path is that of a device."""
    mode = os.lstat(path).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
