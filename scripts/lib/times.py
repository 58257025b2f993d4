# SPDX-License-Identifier: GPL-2.0
"""Prints the slowest tests of KTAP reports, and those that wait; scripts/test runs it.

A report has a line with the times of a test before its result: on the clock, and of all
processors of the machine.
"""

import re
import sys
from typing import NamedTuple

SHOWN = 15

TIME = re.compile(r"# time: ([0-9.]+) s, processors ([0-9.]+) s")
RESULT = re.compile(r"(?:not )?ok \d+ (\S+)")


class Times(NamedTuple):
    """The times of a test, in seconds."""

    name: str
    wall: float
    processors: float

    @property
    def waited(self):
        """How long no processor worked, at least."""
        return max(0.0, self.wall - self.processors)


def parse(lines):
    """Returns the times of the tests in a report."""
    found = []
    last = None
    for line in lines:
        if match := TIME.match(line):
            last = float(match[1]), float(match[2])
        elif (match := RESULT.match(line)) and last:
            found.append(Times(match[1], *last))
            last = None
    return found


def table(title, tests):
    """Returns the lines of a table."""
    width = max(len(test.name) for test in tests)
    lines = [f"  {title:<{width}} {'time':>8} {'processors':>12}"]
    lines += [f"  {test.name:<{width}} {test.wall:>6.1f} s {test.processors:>10.1f} s" for test in tests]
    return lines


def report(tests):
    """Returns the lines of the report."""
    if not tests:
        return ["  no times"]
    lines = [f"  {len(tests)} tests: {sum(test.wall for test in tests):.0f} s on the clock, "
             f"{sum(test.processors for test in tests):.0f} s of processors, "
             f"{sum(test.waited for test in tests):.0f} s without either"]
    slowest = sorted(tests, key=lambda test: test.wall, reverse=True)[:SHOWN]
    idle = sorted(tests, key=lambda test: test.waited, reverse=True)[:SHOWN]
    return [*lines, "", *table("the slowest", slowest), "", *table("the idle", idle)]


def main(paths):
    """Prints the report of these files."""
    tests = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            tests += parse(file)
    print("\n".join(report(tests)))


if __name__ == "__main__":
    main(sys.argv[1:])
