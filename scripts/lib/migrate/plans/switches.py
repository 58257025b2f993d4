# SPDX-License-Identifier: GPL-2.0
"""QEMU's switches: capabilities, parameters and options."""

from dataclasses import replace

from migrate import cases
from migrate import phases
from migrate import snapshot
from migrate import wait
from migrate.guest import Wrong
from migrate.migration import Way
from migrate.plan import Plan, case, versions
from migrate.plans.devices import SERIAL
from migrate.plans.transports import travels
from migrate.settings import SMALL, Settings
from migrate.transport import ExecFile, File
from migrate.wait import Trouble

BASE = Settings().capabilities
# What QEMU says of a device that an option keeps from migrating.
NOT_MIGRATABLE = "VFIO device"
# Passes over guest memory that QEMU does while the downtime limit is too short.
PASSES = 5


async def attempt(stage, way, meanwhile=None, **parameters):
    """Migrates in a way that QEMU may refuse, or that may fail: then the guest continues at the source."""
    fixture = stage.fixture
    source = fixture.running
    try:
        await fixture.migrate(way=way, meanwhile=meanwhile, **parameters)
    except Wrong:
        raise
    except Trouble as trouble:
        if fixture.running is not source or not source.alive():
            raise
        await stays(stage, source, str(trouble))
    else:
        await fixture.guest.verify(fixture.running)


async def stays(stage, source, trouble):
    """Raises unless the guest continues at the source after a migration that was refused or failed."""
    fixture = stage.fixture
    for qemu in fixture.qemus:
        if qemu is not source:
            await fixture.drop(qemu)
    if await source.migration_status() == "colo":
        await source.execute("x-colo-lost-heartbeat")

        async def alone():
            return await source.migration_status() != "colo" and await source.is_running()

        await wait.until("the source to go on alone", alone, [fixture.guest])
        stage.finds("fails", "COLO begins. The test ends the destination, and the guest works on at the source.",
                    "request")
    else:
        stage.finds("refused" if trouble.startswith(f"{source.name}: ") else "fails", trouble)
    await fixture.goes_on()
    await fixture.migrate()


async def postcopy(stage):
    """Postcopy, which cannot work with DMA: it must be refused, or fail before the guest has moved."""
    fixture = stage.fixture

    async def start(migration):
        await phases.device_data(migration, fixture)
        await fixture.running.execute("migrate-start-postcopy")

    try:
        await attempt(stage, Way(capabilities=("postcopy-ram",)), start, downtime_limit=1)
    except (Wrong, Trouble) as trouble:
        # It does not refuse it, and the guest has wrong data, or does not go on after the failure.
        if fixture.settings.qemu != "7.2" or not (stage.verdict or isinstance(trouble, Wrong)):
            raise
        fixture.lost = True
        stage.finds("loses", stage.verdict.line if stage.verdict else str(trouble))


async def never_converges(stage):
    """The downtime limit is too short: the guest works on, and QEMU's estimate says why. Then it may be longer."""
    fixture = stage.fixture

    async def look(migration):
        async def passed():
            return migration.info.get("ram", {}).get("dirty-sync-count", 0) > PASSES

        await migration.until(f"{PASSES} passes", passed, [fixture.guest])
        await fixture.guest.work(fixture.running)
        stage.say(f"expected downtime {migration.info.get('expected-downtime')} ms, limit 1 ms")
        await migration.let_end()

    await fixture.migrate(meanwhile=look, downtime_limit=1, max_bandwidth=16 << 20)
    await fixture.guest.verify(fixture.running)


async def slow(stage):
    """The bandwidth is 1 MiB/s: the guest works meanwhile. Then it may be faster."""
    fixture = stage.fixture

    async def look(migration):
        async def sent():
            return migration.info.get("ram", {}).get("transferred", 0) > 4 << 20

        await migration.until("4 MiB to be sent", sent, [fixture.guest])
        await fixture.guest.work(fixture.running)
        await migration.let_end()

    await fixture.migrate(meanwhile=look, downtime_limit=300, max_bandwidth=1 << 20)
    await fixture.guest.verify(fixture.running)


async def does_not_start(stage):
    """QEMU does not start, and says why."""
    try:
        await stage.fixture.boot()
    except Trouble as trouble:
        if NOT_MIGRATABLE not in str(trouble):
            raise
        stage.finds("refused", str(trouble), "request")
        return
    raise Trouble("QEMU starts all the same")


async def returns(stage):
    """A snapshot of the running guest is saved in a qcow2, and loaded later."""
    fixture = stage.fixture
    qemu = fixture.running
    await snapshot.create(qemu)
    await snapshot.save(qemu)
    await fixture.guest.work(qemu)
    await snapshot.load(qemu)
    # The guest's counts are those of the snapshot.
    fixture.guest.returned()
    await qemu.execute("cont")
    await fixture.guest.work(qemu)
    await fixture.guest.verify(qemu)
    await snapshot.remove(qemu)
    await fixture.migrate()
    await fixture.guest.verify(fixture.running)


def options(prefix, qemu):
    """Yields the plans with options of the device, and of QEMU."""
    def plan(name, feature, *tests, seconds=60, **settings):
        return Plan(f"{prefix}_{name}", Settings(qemu=qemu, append=SMALL, **settings), tests, group="switches",
                    feature=feature, seconds=seconds)

    # Not an mdma: its guest reads 16 MiB of device memory in each check, and each 8 bytes would leave the guest.
    yield Plan(f"{prefix}_no_mmap", replace(SERIAL, qemu=qemu, device_options=("x-no-mmap=on",)), (cases.live,),
               group="switches", feature="x-no-mmap=on, mserial", seconds=60)
    yield plan("no_pre_copy_tracking", "x-pre-copy-dirty-page-tracking=off", cases.live,
               device_options=("x-pre-copy-dirty-page-tracking=off",))
    yield plan("only_migratable", "-only-migratable", cases.live, words_of_qemu=("-only-migratable",))
    name = "x-enable-migration" if qemu == "7.2" else "enable-migration"
    off = (f"{name}=off",)
    stays = {"function": cases.is_blocked, "words": NOT_MIGRATABLE}
    yield plan("migration_off", f"{name}=off", case("stays", f"{name}=off", **stays, whose="request"),
               device_options=off, seconds=40)
    yield Plan(f"{prefix}_only_migratable_off", Settings(qemu=qemu, device_options=off,
                                                         words_of_qemu=("-only-migratable",)), (does_not_start,),
               group="switches", feature=f"-only-migratable, {name}=off", boots=False, whole=False, seconds=5)
    if qemu == "7.2":
        return
    yield plan("migration_auto", f"{name}=auto", case("stays", f"{name}=auto", **stays, whose="QEMU"),
               device_options=(f"{name}=auto",), seconds=40)
    yield plan("no_device_tracking", "x-device-dirty-page-tracking=off", cases.live,
               device_options=("x-device-dirty-page-tracking=off",))
    yield plan("device_multifd", "2 devices, x-migration-multifd-transfer=on", cases.live, cases.interrupts,
               irq="msi", devices=2, capabilities=(*BASE, "multifd"), parameters=(("multifd_channels", 4),),
               device_options=("x-migration-multifd-transfer=on",), seconds=110)


def plan(prefix, qemu):
    """Returns the plan with capabilities and parameters."""
    tests = [
        case("auto_converge", "auto-converge", travels, way=Way(capabilities=("auto-converge",))),
        case("downtime_10s", "downtime limit 10 s", travels, way=Way(parameters=(("downtime_limit", 10000),))),
        case("downtime_1ms", "downtime limit 1 ms: the guest works on", never_converges),
        case("bandwidth", "bandwidth 1 MiB/s: the guest works on", slow),
        case("background_snapshot", "background-snapshot", attempt,
             way=Way(ExecFile, ("background-snapshot",))),
        case("colo", "COLO", attempt, way=Way(capabilities=("x-colo",))),
        case("snapshot", "savevm and loadvm, in a qcow2", returns),
        case("postcopy", "postcopy", postcopy),
    ]
    if qemu != "7.2":
        tests.append(case("cpr_reboot", "cpr-reboot", attempt, way=Way(File, parameters=(("mode", "cpr-reboot"),))))
    return Plan(f"{prefix}_switches", Settings(qemu=qemu, append=SMALL), tuple(tests), group="switches",
                seconds=25 * len(tests))


PLANS = [each for prefix, qemu in versions() for each in (plan(prefix, qemu), *options(prefix, qemu))]
