# SPDX-License-Identifier: GPL-2.0
"""Test results as KTAP."""

import os
import time


def processors(path="/proc/stat"):
    """Returns the seconds that the processors of the machine have worked, for any process and for the kernel."""
    with open(path, encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Ktap:
    """A report with a plan."""

    def __init__(self, planned):
        self.number = 0
        self.failed = 0
        self.begin = time.monotonic(), processors()
        print(f"KTAP version 1\n1..{planned}", flush=True)

    def say(self, text):
        """Prints a diagnostic text."""
        for line in text.splitlines():
            print(f"# {line}", flush=True)

    def result(self, name, trouble=None):
        """Prints the result of a test; `trouble` is the reason of a failure."""
        self.number += 1
        begin, self.begin = self.begin, (time.monotonic(), processors())
        wall, worked = (now - then for now, then in zip(self.begin, begin, strict=True))
        if trouble is not None:
            self.failed += 1
            self.say(trouble)
        self.say(f"time: {wall:.2f} s, processors {worked:.2f} s")
        print(f"{'ok' if trouble is None else 'not ok'} {self.number} {name}", flush=True)

    def skip(self, name, reason):
        """Prints that a test was skipped."""
        self.number += 1
        print(f"ok {self.number} {name} # SKIP {reason}", flush=True)
