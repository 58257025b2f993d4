# SPDX-License-Identifier: GPL-2.0
"""The other machine: its `Host`, used from here."""

import asyncio
import threading
from multiprocessing.managers import BaseManager, NamespaceProxy

from migrate import wait
from migrate.host import Host
from migrate.wait import Trouble

PORT = 7000
# Nobody else is on the network.
KEY = b"hosts"
# Seconds between two signs of life. A machine without output counts as stuck, and this one only waits.
PAUSE = 30


class DeviceProxy(NamespaceProxy):
    """A device of the other machine."""

    _exposed_ = ("__getattribute__", "status", "remove")

    def status(self):
        """Returns the migration status in debugfs."""
        return self._callmethod("status")

    def remove(self):
        """Removes the device."""
        return self._callmethod("remove")


class Manager(BaseManager):
    """Objects of the other machine."""


# What a method of `Host` returns stays on the machine if it is one of these.
Manager.register("Device", proxytype=DeviceProxy, create_method=False)
Manager.register("Log", exposed=("refusals", "close"), create_method=False)
Manager.register("Process", exposed=("poll", "kill", "send_signal"), create_method=False)


def serve(address, port=PORT):
    """Lets the other machine use this one, until it says that it has ended."""
    host, alive, ended = Host(address), threading.Event(), threading.Event()
    Manager.register("host", callable=lambda: host,
                     exposed=("where", "release", "device", "log", "channel", "enter", "start"),
                     method_to_typeid={"device": "Device", "log": "Log", "start": "Process"})
    Manager.register("alive", callable=lambda: alive, exposed=("set",))
    Manager.register("ended", callable=lambda: ended, exposed=("set",))
    server = Manager((address, port), KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not ended.wait(PAUSE):
        if alive.is_set():
            alive.clear()
            print("# in use", flush=True)


class Other:
    """The other machine, while it is used."""

    def __init__(self, address, port=PORT):
        self.manager = Manager((address, port), KEY)
        self.life = None

    async def __aenter__(self):
        for name in ("host", "alive", "ended"):
            Manager.register(name)
        await wait.until("the other machine", self.connect, pause=1)
        self.life = asyncio.create_task(self.tell())
        return self.manager.host()

    def connect(self):
        """Connects, and returns whether the other machine is there."""
        try:
            self.manager.connect()
        except OSError:
            return False
        return True

    async def tell(self):
        """Tells the other machine that this one is alive."""
        alive = self.manager.alive()
        while True:
            alive.set()
            await asyncio.sleep(PAUSE)

    async def __aexit__(self, *_error):
        self.life.cancel()
        try:
            self.manager.ended().set()
        except (OSError, EOFError) as error:
            raise Trouble(f"the other machine is gone: {error}") from error
