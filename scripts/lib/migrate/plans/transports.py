# SPDX-License-Identifier: GPL-2.0
"""What the migration stream goes through."""

import os

from migrate import transport
from migrate.migration import Way
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings
from migrate.wait import Trouble

FOUR_CHANNELS = (("multifd_channels", 4),)
# What the first record of a device's stream begins with: Documentation/stream.rst.
MAGIC = b"VFIOMDEV"
# Of the field memory_size in that record.
OFFSET = 40


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
    status = await migration.ended([fixture.guest])
    if status != "failed":
        raise Trouble(f"the migration {status}, not failed")
    stage.say(f"source: {migration.info.get('error-desc', 'no reason given')}; destination: {destination.words()}")
    await fixture.drop(destination)
    await fixture.running.execute("migrate-set-parameters", tls_creds="", tls_hostname="")
    await fixture.goes_on()


async def damaged(stage, how):
    """The stream is damaged in a file, and the destination refuses it."""
    fixture = stage.fixture
    destination = await fixture.launch(fixture.other, incoming=True)
    destination.expected_end = True
    migration = fixture.migration(destination, Way(transport.ExecFile))
    # The file is damaged before the destination reads it.
    listen, migration.transport.listen = migration.transport.listen, nothing
    await migration.begin()
    status = await migration.ended([fixture.guest])
    if status != "completed":
        raise Trouble(f"the migration to a file {status}")
    how(migration.transport.path)
    await listen(destination)
    await refuses(stage, destination)
    # A source that has migrated continues by command.
    await fixture.running.execute("cont")
    await fixture.goes_on()


async def nothing(_qemu):
    """Does nothing."""


async def refuses(stage, destination):
    """Waits until a destination refuses its stream, and drops it."""
    await wait_for_refusal(destination)
    stage.say(f"the destination said: {destination.words()}")
    for line in stage.fixture.log.refusals():
        stage.say(f"the kernel said: {line}")
    await stage.fixture.drop(destination)


async def wait_for_refusal(destination):
    """Waits until a destination has ended with an error."""
    status = await destination.ended()
    if status == 0:
        raise Trouble(f"the destination ended with 0: {destination.words()}")


def cut(path):
    """Cuts the last eighth of the file."""
    os.truncate(path, os.path.getsize(path) * 7 // 8)


def flip(path):
    """Flips a bit of the device's data."""
    with open(path, "r+b") as file:
        data = file.read()
        at = data.rindex(MAGIC) + OFFSET
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


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
        case("truncated", "a truncated file is refused", damaged, how=cut),
        case("flipped", "a flipped bit in the device's data is refused", damaged, how=flip),
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
