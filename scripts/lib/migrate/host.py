# SPDX-License-Identifier: GPL-2.0
"""The machine that a side is on: its devices, its kernel's log, and its processes."""

import asyncio
import os
import socket
import subprocess

from migrate.device import Device, Log


class Host:
    """A machine. Without an address, only programs of the machine itself talk to its QEMUs, by UNIX sockets."""

    def __init__(self, address=None):
        self.address = address

    def where(self):
        """Returns the address at which a destination listens."""
        return self.address or "127.0.0.1"

    def release(self):
        """Returns the release of the kernel."""
        return os.uname().release

    def device(self, driver, name, size):
        """Creates a device."""
        return Device(driver, name, size)

    def log(self):
        """Returns the kernel's log from now on."""
        return Log()

    def channel(self, path):
        """Returns where a QEMU shall listen: at a path, or at an address and a port that is free."""
        if self.address is None:
            return path
        with socket.create_server((self.address, 0)) as server:
            return server.getsockname()

    def enter(self, version):
        """Prepares the root file system of a QEMU."""
        version.enter()

    def start(self, command, output, files=(), prepare=None):
        """Starts a process with these open files. Its output goes to a file, and it calls `prepare` first."""
        with open(output, "wb") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                    preexec_fn=prepare, pass_fds=files)


# This machine.
HERE = Host()


def words(channel):
    """Returns the words of a -chardev option that name a channel."""
    return f"path={channel}" if isinstance(channel, str) else f"host={channel[0]},port={channel[1]}"


async def connect(channel):
    """Connects to a channel. Returns a reader and a writer."""
    if isinstance(channel, str):
        return await asyncio.open_unix_connection(channel)
    return await asyncio.open_connection(*channel)
