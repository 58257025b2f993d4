# SPDX-License-Identifier: GPL-2.0
"""Tests of hosts.remote: another process plays the other machine."""

import asyncio
import os
import subprocess
import sys
import tempfile
import unittest

from hosts import remote
from migrate import wait
from migrate.host import Host

ADDRESS = "127.0.0.1"


class OtherMachine(unittest.TestCase):
    def setUp(self):
        self.output = tempfile.TemporaryFile()
        self.addCleanup(self.output.close)

    def use(self, function):
        """Calls a function with the other machine, and returns the exit status of that process."""
        # Another run of this test may use the usual port.
        _, port = Host(ADDRESS).channel("")
        program = f"from hosts import remote; remote.PAUSE = 0.01; remote.serve({ADDRESS!r}, {port})"
        with subprocess.Popen([sys.executable, "-c", program], stdout=self.output) as process:
            async def run():
                async with remote.Other(ADDRESS, port) as other:
                    await function(other)

            try:
                asyncio.run(run())
                return process.wait(60)
            finally:
                process.kill()

    def test_it_says_what_it_is(self):
        async def check(other):
            self.assertEqual(other.where(), ADDRESS)
            self.assertEqual(other.release(), os.uname().release)
            self.assertEqual(other.channel("/ignored")[0], ADDRESS)

        self.assertEqual(self.use(check), 0)

    def test_it_prints_while_it_is_used(self):
        async def nothing(_other):
            await wait.until("the other machine to print", lambda: os.fstat(self.output.fileno()).st_size)

        self.assertEqual(self.use(nothing), 0)
        self.output.seek(0)
        self.assertEqual(self.output.read(), b"# in use\n")

    def test_a_process_stays_there(self):
        async def check(other):
            with tempfile.NamedTemporaryFile() as file:
                process = other.start(["sh", "-c", "echo $PPID; exec sleep 600"], file.name)
                self.assertIsNone(process.poll())
                process.kill()
                await wait.until("the process to end", lambda: process.poll() is not None)
                self.assertEqual(process.poll(), -9)

        self.assertEqual(self.use(check), 0)

    def test_an_error_comes_back(self):
        async def check(other):
            with self.assertRaisesRegex(wait.Trouble, "cannot write .* to /sys/class/mdev_bus/none/"):
                other.device("none", "A0", "16M")

        self.assertEqual(self.use(check), 0)
