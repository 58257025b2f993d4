# SPDX-License-Identifier: GPL-2.0
"""What the host holds for devices: pins, file descriptors, threads. A guest that has ended leaves none."""

import os

from migrate.wait import Trouble

# Threads of the kernel that come and go by themselves.
POOLS = ("kworker/", "irq/", "jbd2/", "loop", "ext4-")


def pins():
    """Returns the number of page references that are pinned for long."""
    with open("/proc/vmstat", encoding="ascii") as file:
        counts = dict(line.split() for line in file)
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


def threads():
    """Returns how many threads the kernel runs, without those of its pools."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                head, _, rest = file.read().rpartition(")")
            parent = int(rest.split()[1])
        except (OSError, ValueError):
            continue
        count += parent == 2 and not head.partition("(")[2].startswith(POOLS)
    return count


def files():
    """Returns how many files are open on the machine."""
    with open("/proc/sys/fs/file-nr", encoding="ascii") as file:
        return int(file.read().split()[0])


def look():
    """Returns what the host holds."""
    return {"pinned pages": pins(), "kernel threads": threads(), "open files": files()}


# The kernel counts open files in batches for each processor.
SLACK = {"pinned pages": 0, "kernel threads": 0, "open files": 256}


def check(before):
    """Raises if the host holds more than before."""
    now = look()
    more = [f"{name}: {before[name]} before, {now[name]} now" for name in now if now[name] > before[name] + SLACK[name]]
    if more:
        raise Trouble(f"the guest has ended, and the host holds more: {'; '.join(more)}")
