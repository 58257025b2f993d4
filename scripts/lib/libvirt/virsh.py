# SPDX-License-Identifier: GPL-2.0
"""virsh, which talks with the libvirt of either machine."""

import asyncio

from libvirt.daemon import in_root
from migrate import wait
from migrate.wait import Trouble


async def call(*command):
    """Runs a command in the root. Returns its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *in_root(*command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT)
    said, _ = await wait.event(f"{' '.join(command)}", process.communicate())
    return process.returncode, said.decode(errors="replace").strip()


class Virsh:
    """The libvirt of a machine."""

    def __init__(self, side, address):
        self.side = side
        self.address = address
        self.uri = f"qemu+tcp://{address}/system"

    async def run(self, *words):
        """Runs a command of virsh. Returns whether it succeeded, and what it printed."""
        status, said = await call("virsh", "--quiet", "--connect", self.uri, *words)
        return status == 0, said

    async def __call__(self, *words):
        """Runs a command, and returns what it printed."""
        done, said = await self.run(*words)
        if not done:
            raise Trouble(f"virsh {words[0]} at {self.side}: {said}")
        return said

    async def refuses(self, words, *command):
        """Runs a command, which must fail with these words. Returns what it printed."""
        done, said = await self.run(*command)
        if done or words not in said:
            raise Trouble(f"virsh {command[0]} at {self.side} {'succeeded' if done else 'failed'}, and printed: {said}")
        return said

    async def answers(self):
        """Whether it can be reached."""
        return (await self.run("version"))[0]
