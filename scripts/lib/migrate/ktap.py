# SPDX-License-Identifier: GPL-2.0
"""Results of tests, as KTAP."""

import time


class Ktap:
    """A report of a known number of tests."""

    def __init__(self, planned):
        self.number = 0
        self.failed = 0
        self.begin = time.monotonic()
        print(f"KTAP version 1\n1..{planned}", flush=True)

    def say(self, text):
        for line in text.splitlines():
            print(f"# {line}", flush=True)

    def result(self, name, trouble=None):
        """One test's result; `trouble` says why it failed."""
        self.number += 1
        took, self.begin = time.monotonic() - self.begin, time.monotonic()
        if trouble is not None:
            self.failed += 1
            self.say(trouble)
        print(f"{'ok' if trouble is None else 'not ok'} {self.number} {name}", flush=True)
        self.say(f"took {took:.0f} s")
