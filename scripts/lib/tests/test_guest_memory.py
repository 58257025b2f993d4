# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.guest_memory: which pages of a guest are lost, and of the log of a mutated module."""

import asyncio
import os
import tempfile
import unittest
from unittest import mock

from migrate.guest_memory import PAGE, OfDevice, OfGuest, left_out


class Qemu:
    """A QEMU with this memory at physical address `base`, where it also has BAR 2 of its device."""

    name = "A1"

    def __init__(self, directory, name, base, memory):
        self.file = f"{directory}/{name}"
        self.base = base
        self.memory = bytes(memory)

    def path(self, _name):
        return self.file

    async def execute(self, command, **arguments):
        if command == "query-pci":
            regions = [{"bar": 0, "address": 7}, {"bar": 2, "address": self.base}]
            other = {"qdev_id": "", "regions": []}
            return [{"devices": [other]}, {"devices": [other, {"qdev_id": "mdma0", "regions": regions}]}]
        assert command == "pmemsave"
        at = arguments["val"] - self.base
        with open(arguments["filename"], "wb") as file:
            file.write(self.memory[at:at + arguments["size"]])
        return None


def lost(memory, *bases):
    """Returns what is lost of a MiB, of which the second page and the fourth differ."""
    source = bytearray(1 << 20)
    destination = bytearray(source)
    destination[PAGE] = destination[4 * PAGE - 1] = 1
    with tempfile.TemporaryDirectory() as directory:
        ends = [Qemu(directory, str(number), base, contents)
                for number, (base, contents) in enumerate(zip(bases, (source, destination)))]
        asyncio.run(memory.compare(*ends))
        assert os.listdir(directory) == []
    return memory.pages()


def log_of(*batches):
    """Returns a log that has these lines at one read after the other, and then none."""
    return mock.Mock(mutations=mock.Mock(side_effect=[*batches, []]))


SETTINGS = mock.Mock(memory="1M")


class Pages(unittest.TestCase):
    def test_pages_of_the_guest(self):
        lines = [f"type1 was not told of the page at {page:#x}" for page in (0, 4096, 8192, 12288)]
        self.assertEqual(lost(OfGuest(log_of(lines), SETTINGS), 0, 0), ([0, 4096, 8192, 12288], [4096, 12288]))

    def test_pages_of_the_device(self):
        lines = [f"page {page} of the device memory was not marked" for page in (2, 3)]
        memory = OfDevice(log_of([], lines[:1], lines[1:]), SETTINGS)
        self.assertEqual(lost(memory, 0x10000, 0x20000), ([2, 3], [3]))

    def test_nothing_left_out(self):
        for kind, what in (OfGuest, "guest"), (OfDevice, "device"):
            log = log_of([f"no page of the {what} memory was left out"])
            self.assertEqual(lost(kind(log, SETTINGS), 0, 0), ([], []))

    def test_left_out(self):
        self.assertEqual(left_out([
            "no page of the guest memory was left out",
            "type1 was not told of the page at 0x12f000",
            "page 17 of the device memory was not marked",
        ]), [0x12f000, 17])
