# SPDX-License-Identifier: GPL-2.0
"""Tests of the comparison of instruction counts with the table of the tree."""

import contextlib
import io
import json
import os
import tempfile
import unittest

import counts

VERSIONS = {"kernel": "7.3.4", "rustc": "1.90.0"}


def costs(**rows):
    """Costs of a table t with one column."""
    return {"t": {name: {"cost": count} for name, count in rows.items()}}


def table(found, versions=None):
    """A table of the tree."""
    return json.loads(counts.text(versions or VERSIONS, found))


def check(committed, measured, names=(), versions=None):
    """The status and the lines of a check."""
    return counts.check(table(committed), {"costs": measured}, versions or VERSIONS, names, "make bench UPDATE=1")


class Counts(unittest.TestCase):
    def test_counts_in_the_tolerance(self):
        status, lines = check(costs(a=1000, b=20), costs(a=1050, b=19))
        self.assertEqual((status, lines), (0, ["2 counts are within 5% of the table."]))

    def test_a_count_that_differs_is_named_with_both_values(self):
        for measured, change in (1051, "+5.1%"), (949, "-5.1%"):
            status, lines = check(costs(a=1000, b=20), costs(a=measured, b=20))
            self.assertEqual(status, 1)
            self.assertEqual(lines, [
                "1 of 2 counts differ by more than 5%, are new or gone:",
                f"  t: a: cost: committed 1,000, measured {measured:,}, {change}",
                "If that is as it should be: make bench UPDATE=1 rewrites the table."])

    def test_a_part_of_an_instruction_is_no_difference(self):
        self.assertEqual(check(costs(a=2), costs(a=2.9))[0], 0)
        self.assertEqual(check(costs(a=0), costs(a=1.5))[0], 1)

    def test_rows_that_are_new_or_gone(self):
        status, lines = check(costs(a=7, b=1e6), costs(a=7, c=2e6))
        self.assertEqual(status, 1)
        self.assertEqual(lines[1:3], [
            "  t: b: cost: gone, committed 1,000,000", "  t: c: cost: new, measured 2,000,000"])

    def test_a_table_that_is_gone(self):
        self.assertEqual(check(costs(a=7) | {"u": {"r": {"cost": 1}}}, costs(a=7))[0], 1)

    def test_only_the_named_tables(self):
        committed = costs(a=7) | {"u": {"r": {"cost": 100}}}
        self.assertEqual(check(committed, {"u": {"r": {"cost": 100}}}, ["u"])[0], 0)
        self.assertEqual(check(committed, {"u": {"r": {"cost": 200}}}, ["u"])[0], 1)
        # What is measured beside it does not count.
        self.assertEqual(check(committed, {"u": {"r": {"cost": 100}}, "t": {}}, ["u"])[0], 0)

    def test_other_versions_are_not_compared(self):
        status, lines = check(costs(a=7), costs(a=7000), versions=VERSIONS | {"kernel": "7.2.1"})
        self.assertEqual(status, 3)
        self.assertIn("  kernel: committed 7.3.4, here 7.2.1", lines)
        self.assertIn("  rustc: committed 1.90.0, here 1.90.0", lines)

    def test_the_text_has_a_row_a_line(self):
        self.assertEqual(
            counts.text(VERSIONS, {"b": {"r": {"y": 12345.6, "x": 0.25}, "a": {"x": 7.0}}, "a": {"r": {"x": 1}}}),
            '{\n"license": "SPDX-License-Identifier: GPL-2.0",\n'
            '"versions": {"kernel": "7.3.4", "rustc": "1.90.0"},\n"costs": {\n'
            '"a": {\n"r": {"x": 1}\n},\n"b": {\n"a": {"x": 7},\n"r": {"x": 0.25, "y": 12350}\n}\n}\n}\n')

    def test_an_update_of_one_table_keeps_the_others(self):
        committed = table(costs(a=7) | {"u": {"r": {"cost": 100}}})
        found = {"costs": {"u": {"s": {"cost": 3}}}}
        self.assertEqual(json.loads(counts.update(committed, found, VERSIONS, ["u"]))["costs"],
                         costs(a=7) | {"u": {"s": {"cost": 3}}})
        self.assertEqual(json.loads(counts.update(committed, found, VERSIONS, []))["costs"], found["costs"])
        with self.assertRaises(SystemExit):
            counts.update(committed, found, {"kernel": "7.2.1"}, ["u"])

    def test_the_command_line(self):
        with tempfile.TemporaryDirectory() as scratch:
            path, measured = os.path.join(scratch, "table"), os.path.join(scratch, "measured")

            def run(action, *names):
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    status = counts.main([action, path, measured, "REWRITE", "kernel=7", "rustc=1", *names])
                return status, out.getvalue()

            def write(to, content):
                with open(to, "w", encoding="utf-8") as file:
                    file.write(content)

            write(measured, json.dumps({"costs": costs(a=7, b=100)}))
            self.assertEqual(run("check"), (1, f"There is no table {path}: REWRITE writes it.\n"))
            write(path, run("update")[1])
            self.assertEqual(run("check")[0], 0)
            write(measured, json.dumps({"costs": costs(a=7, b=106)}))
            self.assertEqual(run("check", "--", "t")[0], 1)
