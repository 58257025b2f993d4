# SPDX-License-Identifier: GPL-2.0
"""The control group of a QEMU, which limits its memory."""

import os

from migrate.device import write

ROOT = "/sys/fs/cgroup"


class Group:
    """A control group with a limit of memory, without swap."""

    def __init__(self, name, memory_max):
        write(f"{ROOT}/cgroup.subtree_control", "+memory")
        self.path = f"{ROOT}/{name}"
        os.makedirs(self.path)
        write(f"{self.path}/memory.max", memory_max)

    def enter(self):
        """Moves the calling process into the group."""
        write(f"{self.path}/cgroup.procs", str(os.getpid()))

    def killed(self):
        """Returns how many processes the limit has killed."""
        with open(f"{self.path}/memory.events", encoding="ascii") as file:
            return int(dict(line.split() for line in file)["oom_kill"])

    def remove(self):
        """Removes the group, whose processes have ended."""
        os.rmdir(self.path)
