# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.suite: which guest a test gets after one that was lost."""

import asyncio
import unittest
from types import SimpleNamespace

from migrate import cases
from migrate import suite
from migrate.plan import Plan
from migrate.settings import Settings
from migrate.wait import Trouble


async def loses(stage):
    """A test whose guest ends, as it expects."""
    stage.fixture.lost = True


async def fails(_stage):
    """A test that fails."""
    raise Trouble("no")


class Fixture:
    """A fixture that only counts its guests."""

    def __init__(self):
        self.guests = 1
        self.lost = self.failed = False

    async def again(self):
        self.guests += 1
        self.lost = self.failed = False

    async def end(self):
        return {"verified": 0}


class Lost(unittest.TestCase):
    """What becomes of the last test of a plan, which the guest has to end in order."""

    def after(self, *tests):
        """Runs tests and the last one. Returns the reason why that failed, and the number of guests."""
        plan = Plan("plan", Settings(), tests)
        fixture = Fixture()
        fixture.results = []
        stage = SimpleNamespace(plan=plan, fixture=fixture, forget=lambda: None, say=lambda _text: None)
        why = [asyncio.run(suite.perform(stage, test, True)) for _, test in plan.names()]
        return why[-1], fixture.guests

    def test_a_guest_that_lives_ends(self):
        self.assertEqual(self.after(), (None, 1))

    def test_a_guest_that_was_lost_on_purpose_is_replaced(self):
        self.assertEqual(self.after(loses), (None, 2))

    def test_a_guest_that_failed_cannot_end(self):
        self.assertEqual(self.after(fails), ("the guest ended or failed in an earlier test", 1))
        self.assertEqual(self.after(loses, fails)[0], "the guest ended or failed in an earlier test")

    def test_only_the_last_guest_counts(self):
        self.assertEqual(self.after(fails, loses), (None, 3))

    def test_the_last_test_is_the_end(self):
        self.assertIs(Plan("plan", Settings(), (loses,)).names()[-1][1], cases.ends)
