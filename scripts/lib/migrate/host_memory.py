# SPDX-License-Identifier: GPL-2.0
"""Memory of the virtual machine, which is the host of the guests: a migration must not leak it."""

from migrate.wait import Trouble

KIB = 1024
PAGE = 4096
FIELDS = ("MemAvailable", "Slab", "SUnreclaim", "VmallocUsed", "PageTables", "KernelStack", "Percpu")
# Allowed growth: the nested page tables of the guest come and go.
SLACK = {"kernel": 8 << 20, "SUnreclaim": 4 << 20, "VmallocUsed": 1 << 20, "Percpu": 1 << 20}


def meminfo():
    """Returns /proc/meminfo in bytes."""
    values = {}
    with open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            name, value = line.split(":")
            values[name] = int(value.split()[0]) * KIB
    return values


def pagesets():
    """Returns the bytes in per-processor free lists, which MemFree does not count."""
    with open("/proc/zoneinfo", encoding="utf-8") as file:
        words = [line.split() for line in file]
    return sum(int(line[1]) for line in words if line[:1] == ["count:"]) * PAGE


def look():
    """Returns the memory in use, in bytes. `kernel` is memory that is neither free, cache nor of a process.

    Does not drop caches: each QEMU would then be read from the host again.
    """
    values = meminfo()
    seen = {name: values[name] for name in FIELDS}
    seen["kernel"] = (values["MemTotal"] - values["MemFree"] - values["Buffers"] - values["Cached"]
                      - values["AnonPages"] - values["SReclaimable"] - pagesets())
    seen["processes"] = values["AnonPages"]
    return seen


def lines(trips):
    """Yields the lines of a table with the memory after each round trip."""
    names = ("MemAvailable", "processes", "kernel", "Slab", "SUnreclaim", "VmallocUsed", "PageTables", "Percpu")
    yield "trip  " + "".join(f"{name:>14}" for name in names) + "   KiB"
    for number, seen in trips:
        yield f"{number:4}  " + "".join(f"{seen[name] // KIB:14}" for name in names)


def check(early, late):
    """Raises if kernel memory has grown from `early` to `late` by more than SLACK."""
    grown = {name: late[name] - early[name] for name in SLACK}
    bad = [f"{name} by {grown[name] // KIB} KiB" for name in SLACK if grown[name] > SLACK[name]]
    if bad:
        raise Trouble(f"kernel memory has grown: {', '.join(bad)}")
