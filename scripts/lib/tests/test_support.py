# SPDX-License-Identifier: GPL-2.0
"""Tests of the support table."""

import unittest

from migrate import support as lines
from migrate.plan import Plan, case
from migrate.settings import Settings
from migrate.stage import Stage
from support import results, table


async def live(_stage):
    """A test."""


TCP = case("tcp", "TCP", live)
TRANSPORTS = Plan("transports", Settings(qemu="10"), (TCP,), group="transports")
TWO = Plan("two", Settings(), (live,), group="devices", feature="two devices")


class Ktap:
    """A report that says nothing."""

    def say(self, _text):
        """Takes a diagnostic text."""


def stage(verdict=None, figures=None):
    """Returns a stage after a test that has found a verdict and measured figures."""
    after = Stage(None, None, Ktap(), None)
    if verdict:
        after.finds(*verdict)
    if figures:
        after.measures(figures)
    return after


def told(plan, test, verdict=None, trouble=None, figures=None):
    """Returns the results in a report of one test."""
    line = lines.line(plan, test, stage(verdict, figures), trouble)
    return list(results.from_report(["ok 1 x\n", f"[    1.2] # {line}\n"]).values())


class Lines(unittest.TestCase):
    """From a test to a result."""

    def test_a_test_that_passes_works(self):
        self.assertEqual(told(TRANSPORTS, TCP), [results.Result("transports", "TCP", "QEMU 10", "works")])
        self.assertEqual(told(TWO, live), [results.Result("devices", "two devices", "QEMU 7.2", "works")])

    def test_a_verdict_has_a_line(self):
        found = told(TRANSPORTS, TCP, ("refused", "no TCP", "QEMU"))
        self.assertEqual(found, [results.Result("transports", "TCP", "QEMU 10", "refused", "no TCP", "QEMU")])

    def test_a_test_that_fails_is_broken_whatever_it_found(self):
        found = told(TRANSPORTS, TCP, ("refused", "no TCP"), "first\nlast line")
        self.assertEqual((found[0].result, found[0].line), ("broken", "last line"))

    def test_a_plan_without_a_feature_is_no_row(self):
        self.assertIsNone(lines.line(Plan("x", Settings(), (live,)), live, stage(), None))

    def test_figures_belong_to_the_result(self):
        found = told(TRANSPORTS, TCP, figures={"downtime": "3 ms"})
        self.assertEqual(found[0].figures, {"downtime": "3 ms"})

    def test_the_worst_of_several_tests_counts(self):
        report = ["# " + lines.line(TWO, live, stage(verdict), None)
                  for verdict in (None, ("fails", "why"), None)]
        self.assertEqual([one.result for one in results.from_report(report).values()], ["fails"])


class Table(unittest.TestCase):
    """From results to a document."""

    RESULTS = [
        results.Result("transports", "TCP", "QEMU 10", "works"),
        results.Result("transports", "TCP", "QEMU 7.2", "refused",
                       "A1: 2026-01-02T03:04:05.678Z qemu-system-x86_64: no TCP at /tmp/migrate/x", "QEMU"),
        results.Result("transports", "file", "QEMU 10", "works", figures={"downtime": "3 ms", "passes": "4"}),
    ]

    def setUp(self):
        self.page = table.document({one.place: one for one in self.RESULTS})

    def test_older_vmms_come_first(self):
        head = next(line for line in self.page.splitlines() if line.startswith("feature"))
        self.assertEqual(head.split(), ["feature", "QEMU", "7.2", "QEMU", "10"])

    def test_what_was_not_tested_is_no_result(self):
        row = next(line for line in self.page.splitlines() if line.startswith("file"))
        self.assertEqual(row.split(), ["file", "\\-", "works"])

    def test_figures_have_a_table(self):
        self.assertIn("feature VMM     downtime passes\n", self.page)
        self.assertIn("file    QEMU 10 3 ms     4\n", self.page)

    def test_a_note_has_the_line_without_what_varies(self):
        self.assertIn("1. By QEMU::\n\n      no TCP at PATH\n", self.page)
        self.assertIn("refused (1)", self.page)


if __name__ == "__main__":
    unittest.main()
