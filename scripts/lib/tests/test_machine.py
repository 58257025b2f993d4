# SPDX-License-Identifier: GPL-2.0
"""Tests of how vm.machine reads a kernel log."""

import os
import tempfile
import unittest

from vm.machine import Log, Wakeup

RACE = ["BUG: KCSAN: data-race in f / g", "read to 0x1 of 2 bytes by task 9 on cpu 1:", " f+0x1/0x2"]


class KernelLog(unittest.TestCase):
    def read(self, *lines, allow=()):
        """Returns a log that has read these lines after init's first mark."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "console")
            log = Log(path, allow)
            with open(path, "w", encoding="utf-8") as file:
                file.write("".join(line + "\r\n" for line in ("vm: init", *lines)))
            self.assertTrue(log.poll())
            log.tail.file.close()
        return log

    def trouble(self, *lines, allow=()):
        log = self.read(*lines, allow=allow)
        return [log.lines[at] for at in log.trouble]

    def test_marks(self):
        log = self.read("[ 1.0] vm: running", "[ 2.0] vm: insmod x failed", "[ 3.0] vm: command exited 7")
        self.assertTrue(log.started and log.running)
        self.assertEqual((log.status, log.problems), (7, ["insmod x failed"]))

    def test_a_warning_is_trouble(self):
        self.assertEqual(self.trouble("[ 1.0] WARNING: here"), ["[ 1.0] WARNING: here"])

    def test_an_allowed_line_is_not(self):
        self.assertEqual(self.trouble("[ 1.0] WARNING: here", allow=["here"]), [])

    def test_a_race_of_vfio_is_trouble(self):
        self.assertEqual(self.trouble(*RACE, " g+0x1/0x2 [vfio]", "====="), RACE[:1])

    def test_a_race_elsewhere_is_not(self):
        self.assertEqual(self.trouble(*RACE, " g+0x1/0x2", "====="), [])

    def test_a_race_far_above_vfio_is_not(self):
        self.assertEqual(self.trouble(*RACE, *[" x+0x1/0x2"] * 4, " g+0x1/0x2 [vfio]", "====="), [])

    def test_a_trace_of_the_oom_killer_is_not(self):
        self.assertEqual(self.trouble("sh invoked oom-killer: gfp_mask=0", "Call Trace:"), [])

    def test_failed_allocations_are_trouble_only_where_none_is_injected(self):
        lines = ("[ 1.0] sh: page allocation failure: order:0", "[ 1.0] Call Trace:")
        self.assertEqual(self.trouble("selftests: fail_nth.create", *lines), [])
        self.assertEqual(self.trouble("selftests: bar.read", *lines), list(lines))

    def test_a_machine_is_suspended_until_it_resumes(self):
        lines = ("[ 1.0] PM: suspend entry (s2idle)", "[ 1.1] Freezing user space processes")
        self.assertTrue(self.read(*lines).suspended)
        self.assertFalse(self.read(*lines, "[ 1.2] PM: suspend exit").suspended)

    def test_a_breakpoint_is_a_fault_of_the_emulation_only_before_init(self):
        lines = ("[ 2.3] Oops: int3: 0000 [#1] SMP NOPTI", "[ 2.4] Kernel panic - not syncing: Fatal exception")
        self.assertFalse(self.read(*lines).is_misemulated())
        log = self.read(*lines)
        log.started = False
        self.assertTrue(log.is_misemulated())
        log = self.read("[ 2.3] BUG: unable to handle page fault", lines[1])
        log.started = False
        self.assertFalse(log.is_misemulated())

    def test_a_panic_is_seen_before_init(self):
        log = self.read("Kernel panic - not syncing")
        self.assertTrue(log.panicked and log.trouble)


class Port(unittest.TestCase):
    """The serial port that wakes a machine up."""

    def test_only_a_suspended_machine_gets_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            port = Wakeup(os.path.join(folder, "wakeup"))
            self.addCleanup(port.close)
            port.last -= 2 * Wakeup.PAUSE
            port.poll(False)
            with self.assertRaises(BlockingIOError):
                os.read(port.end, 9)
            port.poll(True)
            port.poll(True)
            self.assertEqual(os.read(port.end, 9), b"x")
