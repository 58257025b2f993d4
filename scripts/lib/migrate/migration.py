# SPDX-License-Identifier: GPL-2.0
"""A migration from one QEMU to another, and its result."""

from dataclasses import dataclass, field

from migrate import transport
from migrate import wait
from migrate.qemu import now
from migrate.sample import Sample, ram_bytes
from migrate.wait import Trouble

# With COLO the destination follows the source from then on.
ENDS = ("completed", "failed", "cancelled", "colo")


@dataclass(frozen=True)
class Way:
    """How a guest gets to the destination; the settings say the rest."""

    transport: type = transport.Unix
    # Capabilities, and parameters as pairs, on both sides.
    capabilities: tuple = ()
    parameters: tuple = ()
    # Whether the guest is stopped at the source, or kept stopped at the destination. It continues by command.
    stopped: bool = False
    # Whether the guest has no device to work with.
    idle: bool = False
    # Settings of the destination that differ.
    settings: dict = field(default_factory=dict)


@dataclass
class Device:
    """The status of a device at the source, and at the destination."""

    saved: dict
    loaded: dict = field(default_factory=dict)

    def check(self):
        """Raises unless the destination loaded what the source saved, and more only after a restart."""
        saved = self.saved["pre_copy_bytes"] + self.saved["stop_copy_bytes"]
        loaded = self.loaded["load_bytes"]
        right = loaded > saved if self.loaded["load_restarted"] else loaded == saved
        if saved == 0 or not right:
            raise Trouble(f"the source saved {saved} bytes, the destination loaded {loaded}, "
                          f"in {self.loaded['load_restarted'] + 1} streams")


@dataclass
class Result:
    """A completed migration."""

    info: dict
    devices: list
    begin: float
    end: float
    # The guest's totals at the start, and in its last message from the source.
    before: dict
    during: dict
    limit_ms: int
    # What was copied by some moments.
    samples: list = field(default_factory=list)
    # Seconds between the last message from the source and the first from the destination.
    silence: float = 0.0

    def sum(self, name, which="saved"):
        """Returns the sum of a figure over all devices."""
        return sum(getattr(device, which)[name] for device in self.devices)


class Migration:
    """A migration from `source` to `destination`, which does not listen yet."""

    def __init__(self, settings, source, destination, path, way=Way(), tell=None):
        self.settings = settings
        self.way = way
        self.source = source
        self.destination = destination
        self.transport = way.transport(path)
        self.tell = tell
        self.info = {}
        self.begun = None
        self.samples = []
        # How often the downtime limit was doubled, and whether it may be.
        self.raised = 0
        self.patient = True
        # Front ends and states of the source's devices seen so far.
        self.front_ends = set()
        # The command to continue at the switch-over, whose answer may come late.
        self.continued = None
        self.states = set()

    async def begin(self, capabilities=(), **parameters):
        """Starts the migration; `parameters` add to those of the settings."""
        settings, way = self.settings, self.way
        names = {*settings.capabilities, *capabilities, *way.capabilities}
        if not self.transport.answers:
            names -= {"return-path", "switchover-ack"}
        both = dict((*settings.parameters, *way.parameters))
        both |= await self.transport.prepare(self.source, self.destination)
        for qemu in (self.destination, self.source):
            await qemu.enable(names)
        await self.destination.tune(both)
        self.patient = "downtime_limit" not in {**both, **parameters}
        await self.source.tune({"downtime_limit": settings.downtime_ms, "max_bandwidth": 1 << 40, **both, **parameters})
        if not self.transport.stored:
            await self.transport.listen(self.destination)
        self.begun = now()
        await self.transport.connect(self.source)

    async def poll(self):
        """Updates the state of the migration, and returns the status that the source reports."""
        self.info = await self.source.execute("query-migrate")
        await self.converge()
        moment, devices = now(), [device.status() for device in self.source.devices]
        ram = self.info.get("ram", {})
        self.samples.append(Sample(moment, (ram_bytes(ram), ram.get("remaining", 0)), devices))
        for status in devices:
            self.states.add(status["state"])
            if status["front_end"] != "none":
                self.front_ends.add(status["front_end"])
        if self.tell:
            self.tell(self)
        return self.info.get("status")

    def progress(self):
        """Returns what changes while data moves."""
        ram = self.info.get("ram", {})
        return self.info.get("status"), ram.get("transferred"), ram.get("dirty-sync-count")

    async def converge(self):
        """Doubles the downtime limit if the guest dirties memory faster than QEMU sends it.

        Decides by bytes and passes, which do not depend on the speed of the host.
        """
        ram = self.info.get("ram", {})
        if self.info.get("status") != "active" or not self.patient or not ram.get("total"):
            return
        if max(ram["transferred"] // ram["total"], ram["dirty-sync-count"] // 30) > self.raised:
            self.raised += 1
            await self.source.execute("migrate-set-parameters",
                                      downtime_limit=self.settings.downtime_ms << self.raised)

    async def until(self, what, condition, watch=()):
        """Waits until `condition`, a status or a coroutine; raises if the migration ends first."""

        async def met():
            status = await self.poll()
            if await condition() if callable(condition) else status == condition:
                return True
            if status in ENDS:
                raise Trouble(f"the migration {status} while waiting for {what}: "
                              f"{self.info.get('error-desc', 'no reason given')}")
            return False

        await wait.until(what, met, [self.source, *watch], pause=0.1, progress=self.progress)

    async def let_end(self):
        """Removes the limits that keep the migration from completing."""
        self.patient = True
        await self.source.execute("migrate-set-parameters", downtime_limit=self.settings.downtime_ms,
                                  max_bandwidth=1 << 40)

    async def ended(self, watch=()):
        """Waits for the end of the migration, and returns the status that the source reports."""

        async def over():
            status = await self.poll()
            return status if status in ENDS else None

        status = await wait.until("the migration to end", over, [self.source, *watch], pause=0.1,
                                  progress=self.progress)
        if status == "completed" and self.transport.stored:
            await self.transport.listen(self.destination)
        return status

    async def must(self, expected, watch=()):
        """Waits for the end of the migration, and raises unless the source reports the `expected` status."""
        status = await self.ended(watch)
        if status != expected:
            raise Trouble(f"the migration {status}, not {expected}: {self.info.get('error-desc', 'no reason given')}")

    def check_protocol(self):
        """Raises unless the source's devices were saved by the protocol of the settings."""
        if self.source.devices and self.front_ends != {self.settings.protocol}:
            raise Trouble(f"the devices were saved by {', '.join(self.front_ends) or 'no protocol'}, "
                          f"not by {self.settings.protocol}")
