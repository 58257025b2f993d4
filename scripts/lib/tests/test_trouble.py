# SPDX-License-Identifier: GPL-2.0
"""Tests of the patterns of kernel trouble."""

import unittest

from trouble import is_trouble, regex


class Trouble(unittest.TestCase):
    def test_words(self):
        bug = regex(["BUG:"])
        self.assertTrue(bug.search("[    1.0] BUG: x"))
        self.assertFalse(bug.search("DEBUG: x"))
        task = regex(["INFO: task * blocked"])
        self.assertTrue(task.search("INFO: task a:7 blocked for"))
        self.assertFalse(task.search("blocked INFO: task a:7"))

    def test_trouble(self):
        for line in (
            "[    8.9] WARNING: CPU: 0 PID: 1 at x.c:1",
            "rust_kernel: panicked at rust/vfio/irq.rs:1:2:",
            "Out of memory: Killed process 7",
            "vm: kmemleak: unreferenced object 0x1",
        ):
            self.assertTrue(is_trouble(line), line)

    def test_other_lines(self):
        for line in (
            "Kernel command line: oops=panic",
            "Memory cgroup out of memory: Killed process 7",
            "kmemleak: Kernel memory leak detector disabled",
            "",
        ):
            self.assertFalse(is_trouble(line), line)
