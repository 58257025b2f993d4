# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.guest_memory: which pages of a guest are lost, and of the log of a mutated module."""

import asyncio
import os
import tempfile
import unittest
from unittest import mock

from migrate.device import Log
from migrate.guest_memory import Memories


class Qemu:
    """A QEMU that saves these bytes as its memory."""

    def __init__(self, directory, name, memory):
        self.file = f"{directory}/{name}"
        self.memory = bytes(memory)

    def path(self, _name):
        return self.file

    async def execute(self, command, val, size, filename):
        assert (command, val, size) == ("pmemsave", 0, len(self.memory))
        with open(filename, "wb") as file:
            file.write(self.memory)


class Pages(unittest.TestCase):
    def test_pages_that_differ(self):
        memories = Memories(mock.Mock(memory="1M"))
        source = bytearray(1 << 20)
        destination = bytearray(source)
        destination[4096] = destination[3 * 4096 + 4095] = 1
        with tempfile.TemporaryDirectory() as directory:
            ends = [Qemu(directory, "source", source), Qemu(directory, "destination", destination)]
            asyncio.run(memories.compare(*ends))
            self.assertEqual(os.listdir(directory), [])
        self.assertEqual(memories.differing([0, 4096, 8192, 12288]), [4096, 12288])
        self.assertEqual(memories.differing([]), [])

    def test_left_out(self):
        log = mock.Mock(mutations=lambda: [
            "no page of the guest memory was left out",
            "type1 was not told of the page at 0x12f000",
            "page 17 of the device memory was not marked",
        ])
        self.assertEqual(Log.left_out(log), [0x12f000, 17])
