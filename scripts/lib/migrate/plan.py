# SPDX-License-Identifier: GPL-2.0
"""A plan: a guest, and the tests that run with it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from migrate import cases
from migrate.settings import Settings


@dataclass(frozen=True)
class Case:
    """A test with arguments. `feature` is what it shows, in words of the support table."""

    name: str
    feature: str
    function: Callable
    arguments: dict = field(default_factory=dict)

    @property
    def __name__(self):
        return self.name

    async def __call__(self, stage):
        await self.function(stage, **self.arguments)


def case(name, feature, function, **arguments):
    """Returns a test with arguments."""
    return Case(name, feature, function, arguments)


@dataclass(frozen=True)
class Plan:
    """A guest, and the tests that run with it, in order."""

    name: str
    settings: Settings
    tests: tuple
    # The group of the support table, and what all the tests together show. A `Case` is a row of its own.
    group: str = ""
    feature: str = ""
    # Parameters of the module, and the path of another build.
    parameters: dict = field(default_factory=dict)
    module: str = ""
    # Whether the plan ends with a test that all data is correct.
    whole: bool = True
    # Whether the guest works before the first test.
    boots: bool = True
    # A file of the host without which it is skipped.
    needs: str = "/"
    # What it takes on an idle machine, in seconds, and whether `make test` always runs it.
    seconds: int = 60
    always: bool = False

    def names(self):
        """Returns pairs of name and test."""
        ends = (cases.ends,) if self.whole else ()
        return [(f"{self.name}_{test.__name__}", test) for test in self.tests + ends]


def versions(*names):
    """Returns pairs of a plan's prefix and a QEMU version, for these versions or for all."""
    found = {"7.2": "v1", "10": "v2_qemu10", "11": "v2_qemu11"}
    return [(found[name], name) for name in names or found]
