# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.selection, and of the plans as a whole."""

import unittest

from migrate import selection
from migrate.plan import Plan, case
from migrate.plans import PLANS
from migrate.settings import Settings


async def something(_stage):
    """A test."""


def plan(name, seconds, tests=(something,), always=False):
    """Returns a plan."""
    return Plan(name, Settings(), tests, seconds=seconds, always=always)


class Choose(unittest.TestCase):
    """The tests of a turn."""

    PLANS = [
        plan("core", 100, always=True),
        plan("split", 90, tuple(case(name, name, something) for name in "abc")),
        plan("whole", 40),
        plan("long", 500),
    ]

    def chosen(self, turn):
        """Returns the names of a turn with 150 seconds."""
        return [name for _, tests in selection.choose(self.PLANS, 150, turn) for name, _ in tests]

    def test_the_core_runs_in_each_turn(self):
        for turn in range(8):
            self.assertIn("core_something", self.chosen(turn))

    def test_cases_are_split_and_other_tests_are_not(self):
        self.assertEqual(self.chosen(0), ["core_something", "core_ends", "split_a", "split_ends"])
        self.assertEqual(self.chosen(3), ["core_something", "core_ends", "whole_something", "whole_ends"])

    def test_turns_go_round(self):
        self.assertEqual(self.chosen(0), self.chosen(5))
        self.assertNotEqual(self.chosen(0), self.chosen(1))

    def test_all_turns_together_run_everything(self):
        everything = {name for each in self.PLANS for name, _ in each.names()}
        self.assertEqual({name for turn in range(5) for name in self.chosen(turn)}, everything)

    def test_what_is_too_long_runs_alone(self):
        self.assertEqual(self.chosen(4), ["core_something", "core_ends", "long_something", "long_ends"])


class Part(unittest.TestCase):
    """Parts for several machines."""

    def test_parts_are_all_and_take_the_same_time(self):
        pairs = [(plan(str(seconds), seconds), []) for seconds in (10, 20, 30, 40)]
        parts = [selection.part(pairs, f"{number}/2") for number in (1, 2)]
        self.assertEqual([[each.seconds for each, _ in part] for part in parts], [[10, 40], [20, 30]])
        self.assertEqual(selection.part(pairs, "1/1"), pairs)


class Plans(unittest.TestCase):
    """All plans."""

    def test_names_are_unique(self):
        names = [name for each in PLANS for name, _ in each.names()]
        self.assertEqual(len(names), len(set(names)))

    def test_each_turn_of_ten_minutes_has_tests_beside_the_core(self):
        core = [each for each in PLANS if each.always]
        for turn in range(100):
            self.assertGreater(len(selection.choose(PLANS, 600, turn)), len(core))


if __name__ == "__main__":
    unittest.main()
