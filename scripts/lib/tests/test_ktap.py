# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.ktap."""

import contextlib
import io
import os
import tempfile
import unittest

from migrate.ktap import Ktap, processors
from times import parse


class Report(unittest.TestCase):
    def test_results_are_numbered_and_counted(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            ktap = Ktap(2)
            ktap.result("first")
            ktap.result("second", "two\nlines")
        self.assertEqual(ktap.failed, 1)
        lines = [line for line in out.getvalue().splitlines() if not line.startswith("# time: ")]
        self.assertEqual(lines, ["KTAP version 1", "1..2", "ok 1 first", "# two", "# lines", "not ok 2 second"])
        self.assertEqual([test.name for test in parse(out.getvalue().splitlines())], ["first", "second"])

    def test_idle_processors_do_not_count(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\n")
            file.flush()
            self.assertEqual(processors(file.name) * os.sysconf("SC_CLK_TCK"), 87600321)
