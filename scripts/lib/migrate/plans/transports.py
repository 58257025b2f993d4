# SPDX-License-Identifier: GPL-2.0
"""What the migration stream goes through."""

from migrate import transport
from migrate.migration import Way
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings
from migrate.wait import Trouble

FOUR_CHANNELS = (("multifd_channels", 4),)


async def travels(stage, way):
    """The guest migrates this way, and verifies everything."""
    fixture = stage.fixture
    result = await fixture.migrate(way=way)
    fixture.nothing_refused("the guest migrated")
    await fixture.guest.verify(fixture.running)
    stage.say(f"{result.info['total-time']} ms, downtime {result.info['downtime']} ms")


async def is_rejected(stage, way):
    """The destination does not accept the source, which runs on."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    destination.expected_end = True
    migration = fixture.migration(destination, way)
    await migration.begin()
    await migration.must("failed", [fixture.guest])
    stage.say(f"source: {migration.info.get('error-desc', 'no reason given')}; destination: {destination.words()}")
    await fixture.drop(destination)
    await fixture.goes_on()


async def is_damaged(stage, kind):
    """The stream is damaged in a file, and the destination refuses it."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    destination.expected_end = True
    migration = fixture.migration(destination, Way(kind))
    await migration.begin()
    await migration.must("completed", [fixture.guest])
    status = await destination.ended()
    stage.say(f"the destination ended with {status}: {destination.words()}")
    for line in fixture.refusals():
        stage.say(f"the kernel said: {line}")
    if status == 0:
        raise Trouble("the destination ended with 0")
    await fixture.drop(destination)
    # A source that has migrated continues by command.
    await fixture.running.execute("cont")
    await fixture.goes_on()


def plan(prefix, qemu):
    """Returns the plan of a QEMU version."""
    new = qemu != "7.2"
    tests = [
        case("tcp", "TCP", travels, way=Way(transport.Tcp)),
        case("fd", "fd", travels, way=Way(transport.Fd)),
        case("exec", "exec, by a pipe", travels, way=Way(transport.Exec)),
        case("exec_file", "exec, by a file", travels, way=Way(transport.ExecFile)),
        case("xbzrle", "xbzrle", travels, way=Way(capabilities=("xbzrle",))),
    ]
    for kind in ("none", "zlib", "zstd"):
        # zlib only stores: to compress takes minutes in an emulated machine.
        way = Way(capabilities=("multifd",), parameters=(*FOUR_CHANNELS, ("multifd_compression", kind),
                                                         ("multifd_zlib_level", 0)))
        tests.append(case(f"multifd_{kind}", f"multifd, compression {kind}", travels, way=way))
    tests += [
        case("tls_psk", "TLS, shared key", travels, way=Way(transport.TlsPsk)),
        case("tls_x509", "TLS, certificates", travels, way=Way(transport.TlsX509)),
        case("tls_other_key", "TLS, a wrong key is refused", is_rejected, way=Way(transport.TlsOtherKey)),
        case("tls_other_host", "TLS, a wrong host is refused", is_rejected, way=Way(transport.TlsOtherHost)),
        case("truncated", "a truncated file is refused", is_damaged, kind=transport.Truncated),
        case("flipped", "a flipped bit in the device's data is refused", is_damaged,
             kind=transport.Flipped),
    ]
    if new:
        tests += [
            case("file", "file", travels, way=Way(transport.File)),
            case("mapped_ram", "file, mapped-ram", travels, way=Way(transport.File, ("mapped-ram",))),
            case("mapped_ram_multifd", "file, mapped-ram, multifd", travels,
                 way=Way(transport.File, ("mapped-ram", "multifd"), FOUR_CHANNELS)),
        ]
    return Plan(f"{prefix}_transports", Settings(qemu=qemu, append=SMALL), tuple(tests), group="transports",
                seconds=20 * len(tests))


PLANS = [plan(prefix, qemu) for prefix, qemu in versions()]
