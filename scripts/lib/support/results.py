# SPDX-License-Identifier: GPL-2.0
"""Results of the tests with VMMs, as lines of KTAP reports and as a file."""

import json
from dataclasses import asdict, dataclass, field

# What a line of a report begins with.
MARK = "support: "
# From good to bad. Of several tests about one feature the worst counts.
ORDER = ("works", "refused", "fails", "loses", "broken")
# The groups, in the order of the table.
GROUPS = ("transports", "life", "guest", "memory", "IOMMU", "devices", "switches", "convergence", "backends",
          "privilege")


@dataclass(frozen=True)
class Result:
    """What a feature does with a VMM."""

    group: str
    feature: str
    vmm: str
    result: str
    # The decisive line if it does not work, and whose fault that is.
    line: str = ""
    whose: str = ""
    # What was measured, as texts.
    figures: dict = field(default_factory=dict)

    @property
    def place(self):
        """What it is about."""
        return self.group, self.feature, self.vmm


def from_report(lines):
    """Returns the results in a KTAP report by what they are about."""
    found = {}
    for line in lines:
        at = line.find(MARK)
        if at < 0:
            continue
        told = json.loads(line[at + len(MARK):])
        result = Result(vmm=f"QEMU {told.pop('qemu')}", **told)
        before = found.get(result.place)
        if before is None or ORDER.index(result.result) > ORDER.index(before.result):
            found[result.place] = result
    return found


def load(path):
    """Returns the results in a file, in its order."""
    with open(path, encoding="utf-8") as file:
        return {result.place: result for result in (Result(**one) for one in json.load(file)["results"])}


def store(path, results):
    """Writes results to a file, in an order that does not depend on when they were found."""
    ordered = sorted(results.values(), key=lambda result: (GROUPS.index(result.group), result.feature, result.vmm))
    told = [{name: value for name, value in asdict(result).items() if value} for result in ordered]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"license": "SPDX-License-Identifier: GPL-2.0", "results": told}, file, indent=1, ensure_ascii=False)
        file.write("\n")
