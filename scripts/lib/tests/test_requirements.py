# SPDX-License-Identifier: GPL-2.0
"""Tests of check.requirements."""

import unittest

from check import requirements

DOCUMENT = """\
Requirements

P1
    The first.

    :host: ``old::test``,
        ``older::test``

P2
    Not tested, because it cannot be.

The end.
"""


class Updated(unittest.TestCase):
    def test_lists_are_replaced_and_sorted(self):
        text, problems = requirements.updated(DOCUMENT, {1: ["b::x", "a::y", "b::x"]}, {1: ["area.test"]})
        self.assertEqual(problems, [])
        self.assertIn("    The first.\n\n    :host: ``a::y``, ``b::x``\n    :vm: ``area.test``\n\nP2\n", text)
        self.assertTrue(text.endswith("it cannot be.\n\nThe end.\n"))

    def test_a_second_update_changes_nothing(self):
        tests = {1: [f"file::a_long_name_of_test_{number}" for number in range(9)]}
        text, _ = requirements.updated(DOCUMENT, tests, {})
        self.assertEqual(requirements.updated(text, tests, {})[0], text)

    def test_a_requirement_without_a_test_says_why(self):
        _, problems = requirements.updated(DOCUMENT, {}, {})
        self.assertEqual(problems, ["P1 has no test and no reason why not"])

    def test_a_requirement_with_a_test_does_not(self):
        _, problems = requirements.updated(DOCUMENT, {1: ["a"], 2: ["b"]}, {})
        self.assertEqual(problems, ["P2 has tests but says that it is not tested"])

    def test_a_table_says_what_it_needs(self):
        table = '"swap" needs [Swap, Processor]:\n    p30_jobs ["P30", "P31"] needs [Kvm],\n    other [],\n'
        self.assertEqual(requirements.AREA.search(table).group(1), "swap")
        proved = [(name, proves) for name, proves in requirements.ROW.findall(table) if "P3" in proves]
        self.assertEqual(proved, [("p30_jobs", '"P30", "P31"')])

    def test_an_unknown_requirement(self):
        _, problems = requirements.updated(DOCUMENT, {1: ["a"]}, {7: ["area.test"]})
        self.assertEqual(problems, ["P7 does not exist, but area.test names it"])
