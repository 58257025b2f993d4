# SPDX-License-Identifier: GPL-2.0
"""Compares the instruction counts of scripts/bench with a table of the tree; scripts/bench runs it.

usage: python3 -m counts check|update TABLE MEASURED REWRITE PART=VERSION... [-- NAME...]

TABLE is the file in the tree, MEASURED the output of bench --json, REWRITE the command that
rewrites TABLE, and NAME a table of bench; without one, all of TABLE is compared. `update`
prints the new TABLE.

Exit status: 1 if a count differs by more than 5 %, or a row is new or gone; 3 if TABLE is for
other versions, and nothing was compared.
"""

import json
import os
import sys

# By how much of the committed count a measured one may differ. Two runs differ by at most 3 %.
TOLERANCE = 0.05
# Counts below this are of so few instructions that a part of one is more than the tolerance.
SLACK = 1
DIGITS = 4

SAME, DIFFERENT, OTHER_VERSION = 0, 1, 3

LICENSE = "SPDX-License-Identifier: GPL-2.0"


def rounded(count):
    """Returns a count with as many digits as are worth to be seen in a diff."""
    count = float(f"{count:.{DIGITS}g}")
    return int(count) if count.is_integer() else count


def flat(costs):
    """Returns the counts of all tables by table, row and column."""
    return {(table, row, column): count
            for table, rows in costs.items()
            for row, columns in rows.items()
            for column, count in columns.items()}


def chosen(costs, names):
    """Returns the tables with these names; without names, all."""
    return {name: rows for name, rows in costs.items() if not names or name in names}


def grouped(count):
    """Returns a count for people."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def differs(committed, measured):
    """Whether a count has changed."""
    return abs(measured - committed) > max(TOLERANCE * committed, SLACK)


def compare(committed, measured):
    """Returns a line for each count that has changed, and for each that is new or gone."""
    committed, measured = flat(committed), flat(measured)
    lines = []
    for key in sorted(committed.keys() | measured.keys()):
        name = ": ".join(key)
        old, new = committed.get(key), measured.get(key)
        if old is None:
            lines.append(f"{name}: new, measured {grouped(new)}")
        elif new is None:
            lines.append(f"{name}: gone, committed {grouped(old)}")
        elif differs(old, new):
            change = f"{(new - old) / old:+.1%}" if old else "more"
            lines.append(f"{name}: committed {grouped(old)}, measured {grouped(new)}, {change}")
    return lines


def text(versions, costs):
    """Returns the text of a table, a row a line."""
    def quoted(value):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)

    lines = ["{", f'"license": {quoted(LICENSE)},', f'"versions": {quoted(versions)},', '"costs": {']
    tables = []
    for name, rows in sorted(costs.items()):
        body = [f"{quoted(row)}: {quoted({column: rounded(count) for column, count in columns.items()})}"
                for row, columns in sorted(rows.items())]
        tables.append(f"{quoted(name)}: {{\n" + ",\n".join(body) + "\n}")
    return "\n".join(lines) + "\n" + ",\n".join(tables) + "\n}\n}\n"


def check(committed, measured, versions, names, rewrite):
    """Compares; returns the exit status and what to print."""
    if committed["versions"] != versions:
        lines = ["The counts were not compared: they depend on the versions of"]
        for part in sorted(committed["versions"].keys() | versions.keys()):
            lines.append(f"  {part}: committed {committed['versions'].get(part)}, here {versions.get(part)}")
        return OTHER_VERSION, [*lines, f"{rewrite} rewrites the table for these versions."]
    costs = chosen(committed["costs"], names)
    lines = compare(costs, chosen(measured["costs"], names))
    if lines:
        return DIFFERENT, [
            f"{len(lines)} of {len(flat(costs))} counts differ by more than {TOLERANCE:.0%}, are new or gone:",
            *(f"  {line}" for line in lines),
            f"If that is as it should be: {rewrite} rewrites the table."]
    return SAME, [f"{len(flat(costs))} counts are within {TOLERANCE:.0%} of the table."]


def update(committed, measured, versions, names):
    """Returns the text of the new table. With names, the counts of other tables stay."""
    costs = dict(measured["costs"])
    if names and committed:
        if committed["versions"] != versions:
            raise SystemExit("bench: the other tables were measured with other versions: rewrite all of them")
        kept = {name: rows for name, rows in committed["costs"].items() if name not in names}
        costs = kept | chosen(costs, names)
    return text(versions, costs)


def main(arguments):
    """Carries out the command line."""
    names = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, names = arguments[:at], arguments[at + 1:]
    action, path, measured, rewrite, *versions = arguments
    versions = dict(version.split("=", 1) for version in versions)
    committed = None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            committed = json.load(file)
    with open(measured, encoding="utf-8") as file:
        measured = json.load(file)
    if action == "update":
        sys.stdout.write(update(committed, measured, versions, names))
        return SAME
    if committed is None:
        print(f"There is no table {path}: {rewrite} writes it.")
        return DIFFERENT
    status, lines = check(committed, measured, versions, names, rewrite)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
