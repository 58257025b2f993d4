# SPDX-License-Identifier: GPL-2.0
"""The events that the guest's program prints to its serial port, on either side.

The port moves with the guest, and a line may start at the source and end at the
destination. So output of the destination is held until the source has ended. QEMU may
send what is in the port's queue at that moment from both sides, so the line at the
seam may be garbled.
"""

import asyncio
import json
import time

from migrate import host
from migrate import wait
from migrate.wait import Trouble
from trouble import is_trouble


class Wrong(Trouble):
    """The guest found an error."""


class Console:
    """The serial port of the guest at one QEMU."""

    def __init__(self, guest, name):
        self.guest = guest
        self.name = name
        self.held = []
        self.ended = asyncio.Event()
        self.writer = None
        self.task = None

    async def open(self, channel):
        """Connects to a channel of QEMU."""
        reader, self.writer = await host.connect(channel)
        self.task = asyncio.create_task(self.listen(reader))

    async def listen(self, reader):
        """Passes on the output until QEMU ends."""
        try:
            while data := await reader.read(65536):
                self.guest.take(self, time.time(), data)
        except ConnectionError:
            pass
        self.ended.set()


class Guest:
    """A guest: the events of its program, from all sides."""

    def __init__(self, log, on_event=None):
        self.log = open(log, "w", encoding="utf-8", buffering=1)
        self.on_event = on_event
        self.consoles = {}
        self.current = None
        self.rest = b""
        self.seam = False
        self.events = []
        self.totals = {}
        self.wrong = None

    async def connect(self, qemu):
        """Connects to the port at `qemu`; the first port becomes the current one."""
        console = Console(self, qemu.name)
        await console.open(qemu.channels["program"])
        self.consoles[qemu.name] = console
        if self.current is None:
            self.current = console

    async def moved(self, source, destination):
        """Switches to the port at `destination`, once the QEMU `source` has ended."""
        await wait.event(f"the end of the output of {source.name}", self.consoles.pop(source.name).ended.wait())
        self.current = self.consoles[destination.name]
        held, self.current.held = self.current.held, []
        self.seam = True
        for moment, data in held:
            self.take(self.current, moment, data)

    def forget(self, qemu):
        """Forgets a QEMU that ended without the guest."""
        self.consoles.pop(qemu.name, None)

    def take(self, console, moment, data):
        """Takes output of a port: holds it, or splits it into lines."""
        if console is not self.current:
            console.held.append((moment, data))
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                self.line(console.name, moment, line)

    def line(self, where, moment, line):
        """Takes a line: logs it as an event."""
        seam, self.seam = self.seam, False
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            if seam and b"wrong" not in line:
                self.log.write(json.dumps({"event": "seam", "line": repr(line)}) + "\n")
                return
            event = {"event": "wrong", "what": f"unexpected output: {line!r}"}
            kind = "wrong"
        event |= {"at": where, "time": round(moment, 6)}
        self.log.write(json.dumps(event) + "\n")
        self.events.append(event)
        if kind in ("beat", "checked", "ended"):
            self.totals = {name: value for name, value in event.items() if isinstance(value, int)}
        if kind == "wrong":
            self.wrong = event
        if self.on_event:
            self.on_event(event)

    def rebooted(self):
        """Drops the unfinished line and the totals after a reset of the guest."""
        self.rest = b""
        self.totals = {}

    def returned(self):
        """As after a reset, when the guest has returned to a snapshot: it goes on in the middle of a line."""
        self.rebooted()
        self.seam = True

    def check(self):
        """Raises if the guest found an error."""
        if self.wrong:
            more = " ".join(f"{name}={value}" for name, value in self.wrong.items()
                            if name not in ("event", "what", "time"))
            raise Wrong(f"the guest found: {self.wrong['what']} ({more})")

    @property
    def verified(self):
        """The number of jobs that the guest verified."""
        return self.totals.get("verified", 0)

    def first(self, kind, since):
        """Returns the first event of this kind after the first `since` events, or None."""
        return next((event for event in self.events[since:] if event["event"] == kind), None)

    async def next(self, kind, qemu, since=None):
        """Waits for an event of this kind after the first `since` events."""
        since = len(self.events) if since is None else since
        return await wait.until(f"event '{kind}' of the guest at {qemu.name}",
                                lambda: self.first(kind, since), [self, qemu])

    async def work(self, qemu, beats=3):
        """Waits for this many heartbeats, and for verified jobs."""
        since, verified = len(self.events), self.verified

        def enough():
            seen = [event for event in self.events[since:] if event["event"] == "beat"]
            return len(seen) >= beats and seen[-1]["verified"] > verified

        await wait.until(f"the guest at {qemu.name} to work", enough, [self, qemu])

    async def reaches(self, name, number, qemu):
        """Waits until a total of the guest is at least this number."""
        await wait.until(f"the guest at {qemu.name} to count {number} of {name}",
                         lambda: self.totals.get(name, 0) >= number, [self, qemu])

    def send(self, word):
        """Sends a command to the guest's program."""
        self.current.writer.write(word.encode() + b"\n")

    async def ask(self, word, answer, qemu):
        """Sends a command, and waits for the event that answers it."""
        since = len(self.events)
        self.send(word)
        return await self.next(answer, qemu, since)

    async def verify(self, qemu):
        """Makes the guest verify all data."""
        return await self.ask("check", "checked", qemu)

    async def mend(self, qemu):
        """Makes the guest compare and repair all memory. Returns the numbers of pages that differed."""
        mended = await self.ask("mend", "mended", qemu)
        return mended["device_pages"], mended["guest_pages"]

    async def end(self, qemu):
        """Makes the guest verify all data and power off."""
        qemu.expected_end = True
        ended = await self.ask("end", "ended", qemu)
        if ended.get("kernel_log") != "clean":
            raise Wrong(f"the guest's kernel log: {ended.get('kernel_log')}")
        status = await qemu.ended()
        if status:
            raise Trouble(f"QEMU {qemu.name} ended with {status}: {qemu.words()}")
        return ended


def kernel_log(path):
    """Raises if the guest's kernel log at `path` reports a fault."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if is_trouble(line):
                raise Wrong(f"the guest's kernel log: {line.strip()}")
