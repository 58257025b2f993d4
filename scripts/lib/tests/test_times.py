# SPDX-License-Identifier: GPL-2.0
"""Tests of times."""

import unittest

from times import Times, parse, report

REPORT = """KTAP version 1
1..3
# a remark
# time: 2.50 s, processors 0.40 s
ok 1 area.waits
# time: 9.00 s, processors 12.10 s
not ok 2 area.works
ok 3 area.without_times # SKIP none
""".splitlines()


class Reports(unittest.TestCase):
    def test_times_belong_to_the_next_result(self):
        self.assertEqual(parse(REPORT), [Times("area.waits", 2.5, 0.4), Times("area.works", 9.0, 12.1)])

    def test_waits_are_time_without_work(self):
        waits, works = parse(REPORT)
        self.assertAlmostEqual(waits.waited, 2.1)
        self.assertEqual(works.waited, 0)

    def test_both_orders(self):
        lines = report(parse(REPORT))
        names = [line.split()[0] for line in lines if line.startswith("  area")]
        self.assertEqual(names, ["area.works", "area.waits", "area.waits", "area.works"])
        self.assertEqual(report([]), ["  no times"])
