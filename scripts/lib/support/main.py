# SPDX-License-Identifier: GPL-2.0
"""usage: python3 -m support.main FOLDER [--check] [REPORT]...

Updates support.json in FOLDER by the results in KTAP reports, and writes support.rst from it. --check fails if
support.rst is not what support.json says.
"""

import os
import sys

from support import results, table


def main(folder, *words):
    """Returns the exit status."""
    data, page = os.path.join(folder, "support.json"), os.path.join(folder, "support.rst")
    found = results.load(data) if os.path.exists(data) else {}
    if words == ("--check",):
        with open(page, encoding="utf-8") as file:
            if file.read() == table.document(found):
                return 0
        print(f"{page} is not what support.json says; write it by scripts/support-table", file=sys.stderr)
        return 1
    for report in words:
        with open(report, encoding="utf-8", errors="replace") as file:
            found |= results.from_report(file)
    results.store(data, found)
    found = results.load(data)
    with open(page, "w", encoding="utf-8") as file:
        file.write(table.document(found))
    for result in found.values():
        if result.result == "broken":
            print(f"{result.vmm}, {result.feature}: {result.line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
