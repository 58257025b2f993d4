# SPDX-License-Identifier: GPL-2.0
"""What two machines do. Machine A has another kernel and another QEMU than machine B."""

from migrate import cases, transport
from migrate.migration import Way
from migrate.plan import Plan, case
from migrate.plans.transports import travels
from migrate.settings import SMALL, Settings
from migrate.wait import Trouble

TCP, TLS = Way(transport.Tcp), Way(transport.TlsX509)
# The newest type of machine that both QEMUs have.
MACHINE = "pc-q35-10.0"
# The guest works little: its processor also encrypts the stream.
APPEND = (*SMALL, "guest.rate=2")


async def moves(stage, way):
    """The guest migrates to the other machine, to a device with another UUID, and verifies all data."""
    fixture = stage.fixture
    await travels(stage, way)
    source, destination, _ = fixture.results[-1]
    for what, *both in (("kernel", source.host.release(), destination.host.release()),
                        ("QEMU", source.version.name, destination.version.name),
                        ("device", source.devices[0].uuid, destination.devices[0].uuid)):
        stage.say(f"{what} {' to '.join(both)}")
        if len(set(both)) != 2:
            raise Trouble(f"both have the same {what}")


async def other_type(stage):
    """A destination whose device is of another type refuses it before the guest stops. Then the guest migrates."""
    fixture = stage.fixture
    source, since = fixture.running, len(fixture.running.events)
    await cases.refuses_other_memory(stage, TCP)
    stops = [event for _, event in source.events[since:] if event["event"] == "STOP"]
    if stops:
        raise Trouble(f"the guest has stopped {len(stops)} times")
    said = fixture.refusals()
    for line in said:
        stage.say(f"the kernel of the destination said: {line}")
    if not any("memory_size is 0x1000000 in the stream and 0x10000000 here" in line for line in said):
        raise Trouble("the kernel of the destination did not name both sizes")


PLANS = [Plan("hosts", Settings(qemu="10", other_qemu="11", machine=MACHINE, append=APPEND), (
    case("tcp_a_to_b", "", moves, way=TCP),
    case("tcp_b_to_a", "", moves, way=TCP),
    case("other_type_a_to_b", "", other_type),
    case("tls_a_to_b", "", moves, way=TLS),
    case("other_type_b_to_a", "", other_type),
    case("tls_b_to_a", "", moves, way=TLS),
))]
