# SPDX-License-Identifier: GPL-2.0
"""One migration, from one QEMU to another, and what there is to tell of it."""

from dataclasses import dataclass, field

from migrate import wait
from migrate.qemu import now
from migrate.wait import Trouble

ENDS = ("completed", "failed", "cancelled")


@dataclass
class Device:
    """What a device told before, and at, its end of the migration."""

    saved: dict
    loaded: dict = field(default_factory=dict)

    def check(self):
        """Raises unless what was saved is what was loaded, perhaps after streams that were given up."""
        saved = self.saved["pre_copy_bytes"] + self.saved["stop_copy_bytes"]
        loaded = self.loaded["load_bytes"]
        right = loaded > saved if self.loaded["load_restarted"] else loaded == saved
        if saved == 0 or not right:
            raise Trouble(f"the source's device saved {saved} bytes, the destination's loaded "
                          f"{loaded}, in {self.loaded['load_restarted'] + 1} streams")


@dataclass
class Result:
    """A migration that has completed."""

    info: dict
    devices: list
    begin: float
    end: float
    # Of the guest's totals: at the begin, at the last word from the source.
    before: dict
    during: dict
    limit_ms: int
    # How long the guest was not heard of, in seconds.
    silence: float = 0.0

    def sum(self, name, which="saved"):
        return sum(getattr(device, which)[name] for device in self.devices)


class Migration:
    """A migration from `source` to `destination`, which listens for none yet."""

    def __init__(self, settings, source, destination, path, tell=None):
        self.settings = settings
        self.source = source
        self.destination = destination
        self.path = path
        self.tell = tell
        self.info = {}
        self.begun = None
        # How often the limit of the downtime was doubled, and whether it may be.
        self.raised = 0
        self.patient = True
        # What was seen of the source's devices while it went on.
        self.front_ends = set()
        self.states = set()

    async def begin(self, capabilities=(), **parameters):
        """Starts it; `parameters` besides those that the settings have."""
        settings = self.settings
        names = [*settings.capabilities, *capabilities]
        both = {}
        if settings.multifd_channels:
            both["multifd_channels"] = settings.multifd_channels
        for qemu in (self.destination, self.source):
            await qemu.execute("migrate-set-capabilities",
                               capabilities=[{"capability": name, "state": True} for name in names])
            if both:
                await qemu.execute("migrate-set-parameters", **both)
        self.patient = "downtime_limit" not in parameters
        parameters = {"downtime_limit": settings.downtime_ms, "max_bandwidth": 1 << 40, **parameters}
        await self.source.execute("migrate-set-parameters", **parameters)
        await self.destination.execute("migrate-incoming", uri=f"unix:{self.path}")
        self.begun = now()
        await self.source.execute("migrate", uri=f"unix:{self.path}")

    async def poll(self):
        """Looks at it; the source's word on it."""
        self.info = await self.source.execute("query-migrate")
        await self.converge()
        for device in self.source.devices:
            status = device.status()
            self.states.add(status["state"])
            if status["front_end"] != "none":
                self.front_ends.add(status["front_end"])
        if self.tell:
            self.tell(self)
        return self.info.get("status")

    async def converge(self):
        """Lets the guest stand still for longer if it writes faster than it can be sent.

        By what was sent and how often it was looked at, which does not depend on the host's speed.
        """
        ram = self.info.get("ram", {})
        if self.info.get("status") != "active" or not self.patient or not ram.get("total"):
            return
        if max(ram["transferred"] // ram["total"], ram["dirty-sync-count"] // 30) > self.raised:
            self.raised += 1
            await self.source.execute("migrate-set-parameters",
                                      downtime_limit=self.settings.downtime_ms << self.raised)

    async def until(self, what, condition, watch=()):
        """Waits until `condition` is met, looking again and again; it must not have ended."""

        async def met():
            status = await self.poll()
            if await condition() if callable(condition) else status == condition:
                return True
            if status in ENDS:
                raise Trouble(f"the migration {status} while waiting for {what}: "
                              f"{self.info.get('error-desc', 'no reason given')}")
            return False

        await wait.until(what, met, [self.source, *watch], pause=0.1)

    async def let_end(self):
        """The guest may stand still now for as long as the settings have it, and longer."""
        self.patient = True
        await self.source.execute("migrate-set-parameters", downtime_limit=self.settings.downtime_ms,
                                  max_bandwidth=1 << 40)

    async def ended(self, watch=()):
        """Waits for its end, whatever that is: the source's status."""

        async def over():
            status = await self.poll()
            return status if status in ENDS else None

        return await wait.until("the migration to end", over, [self.source, *watch], pause=0.1)

    def check_protocol(self):
        """Raises if the source's devices were saved by another protocol, or none was seen."""
        if self.front_ends != {self.settings.protocol}:
            raise Trouble(f"the devices were saved by {', '.join(self.front_ends) or 'no protocol'}, "
                          f"not by {self.settings.protocol}")
