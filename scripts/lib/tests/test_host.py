# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.host: how QEMUs are reached, on this machine and on another one."""

import asyncio
import os
import tempfile
import unittest

from migrate import host


class Channel(unittest.TestCase):
    def reach(self, serve, channel):
        """Returns what a server at a channel says."""
        async def run():
            async def hello(_reader, writer):
                writer.write(b"hello")
                writer.close()

            async with await serve(hello):
                reader, writer = await host.connect(channel)
                said = await reader.read()
                writer.close()
                return said

        return asyncio.run(run())

    def test_this_machine_uses_a_path(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "A1.qmp")
            channel = host.HERE.channel(path)
            self.assertEqual(host.words(channel), f"path={path}")
            self.assertEqual(self.reach(lambda hello: asyncio.start_unix_server(hello, path), channel), b"hello")

    def test_another_machine_uses_a_free_port(self):
        channel = host.Host("127.0.0.1").channel("/ignored")
        self.assertEqual(host.words(channel), f"host=127.0.0.1,port={channel[1]}")
        self.assertEqual(self.reach(lambda hello: asyncio.start_server(hello, *channel), channel), b"hello")
