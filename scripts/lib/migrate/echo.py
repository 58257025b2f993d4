# SPDX-License-Identifier: GPL-2.0
"""Sends back each byte of a serial line that moves between the ends of two devices.

The device where the guest is not sends nothing more, and takes nothing: the guest has
RTS on only where it is. So bytes of the other device are older, and bytes for the guest
go to the end that takes them.
"""

import asyncio
import errno
import os
import select

# Bytes of one read or write.
PIECE = 256
# The time between two looks at ends that take nothing, in seconds.
LOOK = 0.005


class Echo:
    """The ends of a line on both sides, as files that do not wait."""

    def __init__(self, files):
        self.files = files
        # The end where the guest was last.
        self.last = files[0]
        self.waiting = b""
        self.task = None

    @classmethod
    def of(cls, devices):
        """Begins the echo for a device of each side."""
        echo = cls([os.open(f"/dev/mserial-{device.uuid}", os.O_RDWR | os.O_NONBLOCK) for device in devices])
        echo.task = asyncio.create_task(echo.run())
        return echo

    async def close(self):
        """Ends the echo."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for file in self.files:
            os.close(file)

    def forget(self):
        """Discards all bytes, of a guest that is gone."""
        self.receive()
        self.waiting = b""

    async def run(self):
        """Moves bytes until it is cancelled."""
        while True:
            moved = self.receive()
            moved += self.send()
            await asyncio.sleep(0 if moved else LOOK)

    def receive(self):
        """Reads what has arrived, the older bytes first. Returns the number of bytes."""
        before = len(self.waiting)
        for file in sorted(self.files, key=lambda file: file == self.current()):
            while data := call(os.read, file, PIECE):
                self.waiting += data
        return len(self.waiting) - before

    def current(self):
        """Returns the end where the guest is, or was last."""
        poll = select.poll()
        for file in self.files:
            poll.register(file, select.POLLOUT)
        ready = [file for file, events in poll.poll(0) if events & select.POLLOUT]
        if ready:
            self.last = ready[0]
        return self.last

    def send(self):
        """Writes what was read to the end that takes it. Returns the number of bytes."""
        sent = 0
        for file in self.files:
            while self.waiting and (count := call(os.write, file, self.waiting[:PIECE])):
                self.waiting = self.waiting[count:]
                sent += count
        return sent


def call(function, *arguments):
    """Calls a function of `os`. Returns 0 if it would wait, or if the device is gone."""
    try:
        return function(*arguments)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EIO):
            return 0
        raise
