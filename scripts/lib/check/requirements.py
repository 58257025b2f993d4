# SPDX-License-Identifier: GPL-2.0
"""Writes into Documentation/requirements.rst which tests prove each requirement.

usage: scripts/requirements.py [--check]

The requirements are written by hand; the lists of tests under them are generated.
The name of a host test says what the test proves: p23_p25_any_migration proves P23
and P25. The row of a selftest in the table of its file says what the selftest proves.

--check changes nothing. It fails if the lists are out of date, if a test names a
requirement that does not exist, or if a requirement has no test and does not say
"Not tested" and why.
"""

import re
import sys
import textwrap

from check import TOP

DOCUMENT = TOP / "Documentation" / "requirements.rst"
SELFTESTS = TOP / "tools" / "testing" / "selftests"

# A term of the definition list, and the first line of a generated list.
TERM = re.compile(r"^P(\d+)$")
FIELD = re.compile(r"^    :(host|vm): ")
HOST = re.compile(r"^\s*fn ((?:p\d\d_)+)\w+\(", re.M)
TABLE = re.compile(r"^(?:crate::)?tests! *\{(.*?)^\}", re.M | re.S)
AREA = re.compile(r'"([\w.]+)"(?: needs \[[^\]]*\])?:')
ROW = re.compile(r'(\w+) *\[([^\]]*)\]')


def host_tests():
    """Yields (requirement, test) for the tests that cargo runs."""
    for root in ("rust", "samples", "tools"):
        for file in sorted((TOP / root).rglob("*.rs")):
            if SELFTESTS / "src" in file.parents or "target" in file.parts:
                continue
            for found in HOST.finditer(file.read_text()):
                name = re.match(r"\s*fn (\w+)", found.group(0)).group(1)
                for number in re.findall(r"p(\d\d)_", found.group(1)):
                    yield int(number), f"{file.stem}::{name}"


def vm_tests():
    """Yields (requirement, test) for the tests that run in the virtual machine."""
    for file in sorted((SELFTESTS / "src").rglob("*.rs")):
        for table in TABLE.finditer(file.read_text()):
            area = AREA.search(table.group(1))
            if not area:
                continue
            for name, proves in ROW.findall(table.group(1)):
                for number in re.findall(r'"P(\d+)"', proves):
                    yield int(number), f"{area.group(1)}.{name}"


def field(name, tests):
    """Returns the lines of a list of tests."""
    text = ", ".join(f"``{test}``" for test in sorted(set(tests)))
    return textwrap.wrap(
        text,
        80,
        initial_indent=f"    :{name}: ",
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def by_hand(lines):
    """Yields the lines that are not generated."""
    skipping = False
    for line in lines:
        if FIELD.match(line):
            skipping = True
        elif not (skipping and line.startswith(" " * 8)):
            skipping = False
            yield line


class Text:
    """The document while it gets new lists of tests."""

    def __init__(self, host, vm):
        self.tests = {"host": host, "vm": vm}
        self.lines = []
        self.problems = []
        self.known = set()
        self.number = None
        # Where the body of the current requirement starts, or None outside of one.
        self.body = None

    def add(self, line):
        """Takes a line of the document."""
        if self.body is not None and line and not line.startswith(" "):
            self.close()
        term = TERM.match(line)
        if term:
            self.number = int(term.group(1))
            self.known.add(self.number)
            self.body = len(self.lines)
        self.lines.append(line)

    def close(self):
        """Ends the body of a requirement with its lists."""
        while self.lines[-1] == "":
            self.lines.pop()
        lists = []
        for name, tests in self.tests.items():
            if self.number in tests:
                lists += field(name, tests[self.number])
        says = "Not tested" in "\n".join(self.lines[self.body:])
        if not lists and not says:
            self.problems.append(f"P{self.number} has no test and no reason why not")
        if lists and says:
            self.problems.append(f"P{self.number} has tests but says that it is not tested")
        self.lines.extend(([""] if lists else []) + lists + [""])
        self.body = None

    def finish(self):
        """Returns the document, and the problems."""
        if self.body is not None:
            self.close()
        while self.lines[-1] == "":
            self.lines.pop()
        host, vm = self.tests.values()
        for number in sorted((set(host) | set(vm)) - self.known):
            tests = host.get(number, []) + vm.get(number, [])
            self.problems.append(f"P{number} does not exist, but {tests[0]} names it")
        return "\n".join(self.lines) + "\n", self.problems


def updated(before, host, vm):
    """Returns the document with the lists of these tests, and the problems.

    `host` and `vm` map the number of a requirement to the names of its tests.
    """
    text = Text(host, vm)
    for line in by_hand(before.splitlines()):
        text.add(line)
    return text.finish()


def grouped(pairs):
    """Returns a map from requirement to tests."""
    found = {}
    for number, test in pairs:
        found.setdefault(number, []).append(test)
    return found


def main(arguments):
    """Runs the command and returns its exit status."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__.strip())
        return 0
    if arguments not in ([], ["--check"]):
        print(__doc__.strip(), file=sys.stderr)
        return 2

    before = DOCUMENT.read_text()
    text, problems = updated(before, grouped(host_tests()), grouped(vm_tests()))
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments:
        if text != before:
            print(f"{DOCUMENT.name} is out of date: run scripts/requirements.py", file=sys.stderr)
        return int(text != before or bool(problems))
    DOCUMENT.write_text(text)
    return 0
