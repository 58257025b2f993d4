# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.ktap."""

import contextlib
import io
import unittest

from migrate.ktap import Ktap


class Report(unittest.TestCase):
    def test_results_are_numbered_and_counted(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            ktap = Ktap(2)
            ktap.result("first")
            ktap.result("second", "two\nlines")
        self.assertEqual(ktap.failed, 1)
        lines = [line for line in out.getvalue().splitlines() if not line.startswith("# took")]
        self.assertEqual(lines, ["KTAP version 1", "1..2", "ok 1 first", "# two", "# lines", "not ok 2 second"])
