# SPDX-License-Identifier: GPL-2.0
"""Mode cpr-transfer: the destination gets the guest's memory by its descriptor, and copies none of it."""

import asyncio
import json
import os

from migrate import wait
from migrate.migration import Way
from migrate.plan import Plan, versions
from migrate.plans.transports import travels
from migrate.settings import SMALL, Settings
from migrate.transport import Transport
from migrate.wait import Trouble

# Memory that both QEMUs can map.
SHARED = ("-machine", "aux-ram-share=on")


def channel(kind, path):
    """Returns a channel of a migration, of the kind main or cpr, by a UNIX socket."""
    return {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": path}}


class Channels(Transport):
    """The two channels. The destination has no monitor before the source has sent the descriptors to it."""

    def __init__(self, path):
        super().__init__(f"{path}.main")
        self.descriptors = f"{path}.cpr"
        self.begun = None

    def incoming(self):
        """Returns the words for the command line of the destination."""
        return "-incoming", json.dumps(channel("cpr", self.descriptors))

    def channels(self):
        """Returns the channels for the command `migrate`."""
        return [channel("main", self.path), channel("cpr", self.descriptors)]

    async def send(self, source):
        """Begins the migration when the destination listens for descriptors."""
        await wait.until("the destination to listen", lambda: os.path.exists(self.descriptors), [source])
        await source.execute("migrate", channels=self.channels())

    def begin(self, source):
        """Begins the migration, concurrently with the start of the destination."""
        self.begun = asyncio.create_task(self.send(source))

    async def connect(self, source):
        await self.begun


async def transfers(stage):
    """The guest works at the destination, and migrates on as usual."""
    fixture = stage.fixture
    source, channels = fixture.running, Channels(f"{fixture.directory}/cpr-transfer")
    await source.execute("migrate-set-parameters", mode="cpr-transfer")
    await source.enable(fixture.settings.capabilities)
    channels.begin(source)
    await travels(stage, Way(lambda _path: channels, settings={"words_of_destination": channels.incoming()}))
    await travels(stage, Way())


async def is_refused(stage):
    """QEMU refuses it before it connects to anything, and the guest works on."""
    fixture = stage.fixture
    source = fixture.running
    await source.execute("migrate-set-parameters", mode="cpr-transfer")
    try:
        await source.execute("migrate", channels=Channels(f"{fixture.directory}/nobody").channels())
    except Trouble as trouble:
        if "connect" in str(trouble):
            raise
        stage.finds("refused", str(trouble))
    else:
        raise Trouble("QEMU did not refuse it")
    await source.execute("migrate-set-parameters", mode="normal")
    await fixture.goes_on()
    await fixture.migrate()
    await fixture.guest.verify(fixture.running)


# QEMU 11 knows that it cannot keep the DMA mappings of an mdev. QEMU 10 migrates the device as in any other mode.
PLANS = [
    Plan(f"{prefix}_cpr_transfer", Settings(qemu=qemu, append=SMALL, backing="memfd", words_of_qemu=SHARED),
         (transfers if qemu == "10" else is_refused,), group="switches", feature="cpr-transfer", seconds=60)
    for prefix, qemu in versions("10", "11")
]
