# SPDX-License-Identifier: GPL-2.0
"""Test results as KTAP."""

import time


class Ktap:
    """A report with a plan."""

    def __init__(self, planned):
        self.number = 0
        self.failed = 0
        self.begin = time.monotonic()
        print(f"KTAP version 1\n1..{planned}", flush=True)

    def say(self, text):
        """Prints a diagnostic text."""
        for line in text.splitlines():
            print(f"# {line}", flush=True)

    def result(self, name, trouble=None):
        """Prints the result of a test; `trouble` is the reason of a failure."""
        self.number += 1
        took, self.begin = time.monotonic() - self.begin, time.monotonic()
        if trouble is not None:
            self.failed += 1
            self.say(trouble)
        print(f"{'ok' if trouble is None else 'not ok'} {self.number} {name}", flush=True)
        self.say(f"took {took:.0f} s")
