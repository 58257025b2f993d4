# SPDX-License-Identifier: GPL-2.0
"""What the guest's program says over its serial port, wherever the guest runs.

The port moves with the guest: one line may begin at the source and end at the
destination. So what the destination says waits until the source has said all. What
is in the port's queue at that moment QEMU may send twice, by either side: the line
at the seam need not make sense.
"""

import asyncio
import json
import time

from migrate import wait
from migrate.wait import Trouble
from trouble import is_trouble


class Wrong(Trouble):
    """The guest has found something that is not as it must be."""


class Console:
    """One end of a serial port, at one QEMU."""

    def __init__(self, guest, name):
        self.guest = guest
        self.name = name
        self.held = []
        self.ended = asyncio.Event()
        self.writer = None
        self.task = None

    async def open(self, path):
        reader, self.writer = await asyncio.open_unix_connection(path)
        self.task = asyncio.create_task(self.listen(reader))

    async def listen(self, reader):
        try:
            while data := await reader.read(65536):
                self.guest.take(self, time.time(), data)
        except ConnectionError:
            pass
        self.ended.set()


class Guest:
    """A guest: its program's words, put together."""

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
        """Listens to the port at `qemu`; the first one is the current one."""
        console = Console(self, qemu.name)
        await console.open(qemu.path("program"))
        self.consoles[qemu.name] = console
        if self.current is None:
            self.current = console

    async def moved(self, source, destination):
        """The guest runs at `destination`, and the QEMU `source` has ended."""
        await wait.event(f"the end of what {source.name} says", self.consoles.pop(source.name).ended.wait())
        self.current = self.consoles[destination.name]
        held, self.current.held = self.current.held, []
        self.seam = True
        for moment, data in held:
            self.take(self.current, moment, data)

    def forget(self, qemu):
        """`qemu` has ended and never had the guest."""
        self.consoles.pop(qemu.name, None)

    def take(self, console, moment, data):
        if console is not self.current:
            console.held.append((moment, data))
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                self.line(console.name, moment, line)

    def line(self, where, moment, line):
        seam, self.seam = self.seam, False
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            if seam and b"wrong" not in line:
                self.log.write(json.dumps({"event": "seam", "line": repr(line)}) + "\n")
                return
            event = {"event": "wrong", "what": f"not a line of the program: {line!r}"}
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
        """The guest was reset: it begins anew, and does not end the line that it was at."""
        self.rest = b""
        self.totals = {}

    def check(self):
        """Raises if the guest has found an error."""
        if self.wrong:
            more = " ".join(f"{name}={value}" for name, value in self.wrong.items()
                            if name not in ("event", "what", "time"))
            raise Wrong(f"the guest found: {self.wrong['what']} ({more})")

    @property
    def verified(self):
        return self.totals.get("verified", 0)

    async def next(self, kind, qemu, since=None):
        """Waits for an event of this kind after the first `since` ones."""
        since = len(self.events) if since is None else since
        return await wait.until(
            f"'{kind}' of the guest at {qemu.name}",
            lambda: next((event for event in self.events[since:] if event["event"] == kind), None), [self, qemu])

    async def work(self, qemu, beats=3):
        """Waits for so many beats, and for jobs that were verified between them."""
        since, verified = len(self.events), self.verified

        def enough():
            seen = [event for event in self.events[since:] if event["event"] == "beat"]
            return len(seen) >= beats and seen[-1]["verified"] > verified

        await wait.until(f"the guest at {qemu.name} to work", enough, [self, qemu])

    def send(self, word):
        self.current.writer.write(word.encode() + b"\n")

    async def verify(self, qemu):
        """Has it verify all that it knows."""
        since = len(self.events)
        self.send("check")
        return await self.next("checked", qemu, since)

    async def end(self, qemu):
        """Has it verify all and switch off."""
        since = len(self.events)
        qemu.expected_end = True
        self.send("end")
        ended = await self.next("ended", qemu, since)
        if ended.get("kernel_log") != "clean":
            raise Wrong(f"the guest's kernel log: {ended.get('kernel_log')}")
        status = await qemu.ended()
        if status:
            raise Trouble(f"QEMU {qemu.name} ended with {status}: {qemu.words()}")
        return ended


def kernel_log(path):
    """Raises if a guest's kernel log, as the QEMU at `path` kept it, tells of trouble."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if is_trouble(line):
                raise Wrong(f"the guest's kernel log: {line.strip()}")
