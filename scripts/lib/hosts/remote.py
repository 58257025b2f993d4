# SPDX-License-Identifier: GPL-2.0
"""The other machine: its `Host`, used from here."""

import threading
from multiprocessing.managers import BaseManager, NamespaceProxy

from migrate import wait
from migrate.host import Host
from migrate.wait import Trouble

PORT = 7000
# Nobody else is on the network.
KEY = b"hosts"


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
    host, ended = Host(address), threading.Event()
    Manager.register("host", callable=lambda: host,
                     exposed=("where", "release", "device", "log", "channel", "enter", "start"),
                     method_to_typeid={"device": "Device", "log": "Log", "start": "Process"})
    Manager.register("ended", callable=lambda: ended, exposed=("set",))
    server = Manager((address, port), KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ended.wait()


class Other:
    """The other machine, while it is used."""

    def __init__(self, address, port=PORT):
        self.manager = Manager((address, port), KEY)

    async def __aenter__(self):
        Manager.register("host")
        Manager.register("ended")
        await wait.until("the other machine", self.connect, pause=1)
        return self.manager.host()

    def connect(self):
        """Connects, and returns whether the other machine is there."""
        try:
            self.manager.connect()
        except OSError:
            return False
        return True

    async def __aexit__(self, *_error):
        try:
            self.manager.ended().set()
        except (OSError, EOFError) as error:
            raise Trouble(f"the other machine is gone: {error}") from error
