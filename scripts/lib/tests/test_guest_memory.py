# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.guest_memory: which pages of a guest are lost, and of the log of a mutated module."""

import unittest
from unittest import mock

from migrate.device import Log
from migrate.guest_memory import Memories


class Pages(unittest.TestCase):
    def test_pages_that_differ(self):
        memories = Memories(mock.Mock(memory="1M"))
        self.assertEqual(memories.size, 1 << 20)
        source = bytearray(4 * 4096)
        destination = bytearray(source)
        destination[4096] = destination[3 * 4096 + 4095] = 1
        memories.ends = [bytes(source), bytes(destination)]
        self.assertEqual(memories.differing([0, 4096, 8192, 12288]), [4096, 12288])
        self.assertEqual(memories.differing([]), [])

    def test_left_out(self):
        log = mock.Mock(mutations=lambda: [
            "no page of the guest memory was left out",
            "type1 was not told of the page at 0x12f000",
            "page 17 of the device memory was not marked",
        ])
        self.assertEqual(Log.left_out(log), [0x12f000, 17])
