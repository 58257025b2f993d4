# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.cases: what a test accepts from a guest that chooses its jobs at random."""

import asyncio
import unittest
from types import SimpleNamespace
from unittest import mock

from migrate import cases
from migrate.settings import Settings
from migrate.wait import Trouble


class Guest:
    """A guest that does `during` jobs on registered memory in each of its migrations, and one after each wait."""

    def __init__(self, during):
        self.during = iter(during)
        self.totals = {"verified": 5, "by_key": 0}

    async def reaches(self, name, number, _qemu):
        self.totals[name] = max(self.totals[name], number)

    async def verify(self, _qemu):
        pass


class Fixture:
    """A fixture whose migrations only count."""

    def __init__(self, guest, settings):
        self.settings = settings
        self.guest = guest
        self.running = None
        self.results = []

    async def migrate(self):
        before, totals = dict(self.guest.totals), self.guest.totals
        totals["verified"] += 1
        totals["by_key"] += next(self.guest.during)
        result = SimpleNamespace(before=before, during=dict(totals))
        self.results.append((None, None, result))
        return result

    def nothing_refused(self, _when):
        pass


class Live(unittest.TestCase):
    """The guest does each kind of job before, during and after a migration."""

    def migrations(self, *during, settings=Settings()):
        """Returns the number of migrations."""
        fixture, said = Fixture(Guest(during), settings), []
        with mock.patch.object(cases.report, "table", return_value=[]):
            asyncio.run(cases.live(SimpleNamespace(fixture=fixture, say=said.append)))
        self.assertEqual(len(said), len(fixture.results) - 1)
        return len(fixture.results)

    def test_the_jobs_before_and_after_are_waited_for(self):
        self.assertEqual(self.migrations(3), 1)

    def test_a_migration_without_a_job_of_a_kind_is_repeated(self):
        self.assertEqual(self.migrations(0, 0, 1), 3)

    def test_a_guest_that_never_does_one_fails(self):
        with self.assertRaisesRegex(Trouble, "no job of by_key"):
            self.migrations(*[0] * cases.ATTEMPTS)

    def test_a_guest_whose_memory_cannot_be_pinned_registers_none(self):
        self.assertEqual(self.migrations(0, settings=Settings(ordinary_user=True)), 1)
