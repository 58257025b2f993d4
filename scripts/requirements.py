#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes into Documentation/requirements.rst which tests prove each requirement.

usage: scripts/requirements.py [--check]

The requirements are written by hand; the lists of tests under them are not. A
host test proves what its name says: p23_p25_any_migration proves P23 and P25.
A selftest proves what its row in the table of its file says.

--check changes nothing and fails if the lists are not up to date, if a test
names a requirement that does not exist, or if a requirement has no test and
does not say "Not tested" and why.
"""

import pathlib
import re
import sys
import textwrap

TOP = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = TOP / "Documentation" / "requirements.rst"
SELFTESTS = TOP / "tools" / "testing" / "selftests"

# A term of the definition list, and a line of a list that is ours.
TERM = re.compile(r"^P(\d+)$")
FIELD = re.compile(r"^    :(host|vm): ")
HOST = re.compile(r"^\s*fn ((?:p\d\d_)+)\w+\(", re.M)
TABLE = re.compile(r"^(?:crate::)?tests! *\{(.*?)^\}", re.M | re.S)
AREA = re.compile(r'"([\w.]+)":')
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
    """The lines of a list of tests."""
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
    """The lines without those that this script has written."""
    skipping = False
    for line in lines:
        if FIELD.match(line):
            skipping = True
        elif not (skipping and line.startswith(" " * 8)):
            skipping = False
            yield line


def main():
    if any(arg in ("-h", "--help") for arg in sys.argv[1:]):
        print(__doc__.strip())
        return 0
    if sys.argv[1:] not in ([], ["--check"]):
        print(__doc__.strip(), file=sys.stderr)
        return 2

    host, vm = {}, {}
    for number, test in host_tests():
        host.setdefault(number, []).append(test)
    for number, test in vm_tests():
        vm.setdefault(number, []).append(test)

    before = DOCUMENT.read_text()
    lines = list(by_hand(before.splitlines()))
    after, problems, known = [], [], set()
    body = None  # Where the body of the requirement at hand begins.
    number = None

    def close():
        """Ends the body of a requirement with its lists."""
        while after[-1] == "":
            after.pop()
        lists = []
        if number in host:
            lists += field("host", host[number])
        if number in vm:
            lists += field("vm", vm[number])
        says = "Not tested" in "\n".join(after[body:])
        if not lists and not says:
            problems.append(f"P{number} has no test and does not say why")
        if lists and says:
            problems.append(f"P{number} says it is not tested, and is")
        after.extend(([""] if lists else []) + lists + [""])

    for line in lines:
        term = TERM.match(line)
        if body is not None and line and not line.startswith(" "):
            close()
            body = None
        if term:
            number = int(term.group(1))
            known.add(number)
            body = len(after)
        after.append(line)
    if body is not None:
        close()
    while after[-1] == "":
        after.pop()
    text = "\n".join(after) + "\n"

    for number in sorted((set(host) | set(vm)) - known):
        tests = host.get(number, []) + vm.get(number, [])
        problems.append(f"P{number} does not exist: {tests[0]}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if "--check" in sys.argv:
        if text != before:
            print(f"{DOCUMENT.name} is out of date: run scripts/requirements.py", file=sys.stderr)
        return int(text != before or bool(problems))
    DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
