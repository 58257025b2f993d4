# SPDX-License-Identifier: GPL-2.0
"""Memory of the host of the guests: what a migration may not keep."""

from migrate.wait import Trouble

KIB = 1024
PAGE = 4096
FIELDS = ("MemAvailable", "Slab", "SUnreclaim", "VmallocUsed", "PageTables", "KernelStack", "Percpu")
# What comes and goes: the nested page tables of the guest.
SLACK = {"kernel": 8 << 20, "SUnreclaim": 4 << 20, "VmallocUsed": 1 << 20, "Percpu": 1 << 20}


def meminfo():
    values = {}
    with open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            name, value = line.split(":")
            values[name] = int(value.split()[0]) * KIB
    return values


def pagesets():
    """What each processor keeps free for itself, in bytes, which is not in MemFree."""
    with open("/proc/zoneinfo", encoding="utf-8") as file:
        words = [line.split() for line in file]
    return sum(int(line[1]) for line in words if line[:1] == ["count:"]) * PAGE


def look():
    """Memory now, in bytes; `kernel` is what is neither free nor a cache nor of a process.

    Caches are left alone: without them each QEMU would be read anew from the host.
    """
    values = meminfo()
    seen = {name: values[name] for name in FIELDS}
    seen["kernel"] = (values["MemTotal"] - values["MemFree"] - values["Buffers"] - values["Cached"]
                      - values["AnonPages"] - values["SReclaimable"] - pagesets())
    seen["processes"] = values["AnonPages"]
    return seen


def lines(trips):
    """A table of what was seen after each trip."""
    names = ("MemAvailable", "processes", "kernel", "Slab", "SUnreclaim", "VmallocUsed", "PageTables", "Percpu")
    yield "trip  " + "".join(f"{name:>14}" for name in names) + "   KiB"
    for number, seen in trips:
        yield f"{number:4}  " + "".join(f"{seen[name] // KIB:14}" for name in names)


def check(early, late):
    """Raises if what the kernel holds has grown from `early` to `late`."""
    grown = {name: late[name] - early[name] for name in SLACK}
    bad = [f"{name} by {grown[name] // KIB} KiB" for name in SLACK if grown[name] > SLACK[name]]
    if bad:
        raise Trouble(f"memory of the host has grown: {', '.join(bad)}")
