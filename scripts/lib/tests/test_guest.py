# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.guest: the guest's words, put together from two serial ports."""

import json
import tempfile
import unittest

from migrate.guest import Console, Guest, Wrong, kernel_log


class Words(unittest.TestCase):
    def setUp(self):
        self.log = tempfile.NamedTemporaryFile()
        self.addCleanup(self.log.close)
        self.guest = Guest(self.log.name)
        self.addCleanup(self.guest.log.close)
        self.source, self.destination = Console(self.guest, "A1"), Console(self.guest, "B2")
        self.guest.current = self.source

    def kinds(self):
        return [(event["at"], event["event"]) for event in self.guest.events]

    def test_a_line_may_come_in_parts(self):
        self.guest.take(self.source, 1, b'{"event": "be')
        self.guest.take(self.source, 2, b'at", "verified": 3}\n')
        self.assertEqual(self.kinds(), [("A1", "beat")])
        self.assertEqual(self.guest.verified, 3)

    def test_the_destination_waits_for_the_source(self):
        self.guest.take(self.destination, 1, b'{"event": "late"}\n')
        self.assertEqual(self.kinds(), [])
        self.assertEqual(self.destination.held, [(1, b'{"event": "late"}\n')])

    def test_nonsense_is_an_error(self):
        self.guest.take(self.source, 1, b"nonsense\n")
        with self.assertRaisesRegex(Wrong, "nonsense"):
            self.guest.check()

    def test_nonsense_where_two_ports_meet_is_not(self):
        self.guest.seam = True
        self.guest.take(self.source, 1, b"nonsense\n")
        self.guest.check()

    def test_an_error_that_the_guest_found_is_reported(self):
        self.guest.take(self.source, 1, json.dumps({"event": "wrong", "what": "byte 7", "job": 9}).encode() + b"\n")
        with self.assertRaisesRegex(Wrong, "byte 7.*job=9"):
            self.guest.check()

    def test_a_reboot_drops_the_line_it_interrupted(self):
        self.guest.take(self.source, 1, b'{"event": "be')
        self.guest.rebooted()
        self.guest.take(self.source, 2, b'{"event": "ready"}\n')
        self.assertEqual(self.kinds(), [("A1", "ready")])


class KernelLog(unittest.TestCase):
    def check(self, text):
        with tempfile.NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            kernel_log(file.name)

    def test_a_clean_log_passes(self):
        self.check(b"[    0.000000] Linux version\n")

    def test_a_panic_is_an_error(self):
        with self.assertRaisesRegex(Wrong, "Kernel panic"):
            self.check(b"Kernel panic - not syncing\n")
