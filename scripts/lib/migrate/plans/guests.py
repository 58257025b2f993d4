# SPDX-License-Identifier: GPL-2.0
"""What the guest does meanwhile, and what it is."""

from dataclasses import replace

from migrate import cases
from migrate import phases
from migrate import wait
from migrate.migration import Way
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings
from migrate.wait import Trouble

# What the guest's kernel prints first.
BOOTS = b"Linux version"


async def resets_at_the_switchover(stage):
    """The guest is reset while it is stopped at the switch-over."""
    fixture = stage.fixture
    source, since = fixture.running, len(fixture.guest.events)

    async def reset(migration):
        await migration.until("the switch-over", "pre-switchover", [fixture.guest])
        # The firmware resets the machine once more when it runs.
        await migration.destination.execute("set-action", reboot="reset")
        await source.reset()
        fixture.guest.rebooted()
        await source.execute("migrate-continue", state="pre-switchover")

    try:
        await fixture.migrate(way=Way(capabilities=("pause-before-switchover",)), meanwhile=reset, **phases.AT_ONCE)
    except Trouble as trouble:
        if fixture.running is not source or not source.alive():
            raise
        stage.finds("fails", str(trouble))
        for qemu in fixture.qemus:
            if qemu is not source:
                await fixture.drop(qemu)
        await fixture.guest.next("ready", source, since)
        await fixture.goes_on()
        return
    await fixture.guest.verify(fixture.running)


async def powers_off(stage, phase):
    """The guest powers off: the source ends, and so does the destination, which got no guest."""
    fixture = stage.fixture
    destination, _ = await phases.reach(fixture, phase)
    destination.expected_end = True
    await fixture.guest.end(fixture.running)
    fixture.lost = True
    status = await destination.ended()
    stage.say(f"the destination ended with {status}: {destination.words()}")


async def unbinds(stage, meanwhile):
    """The guest's driver is unbound before a migration or in pre-copy, and bound at the destination."""
    fixture = stage.fixture

    async def unbind(migration=None):
        if migration:
            await phases.device_data(migration, fixture)
        await fixture.guest.ask("unbind", "unbound", fixture.running)
        if migration:
            await migration.let_end()

    if meanwhile:
        await fixture.migrate(meanwhile=unbind, way=Way(idle=True), downtime_limit=1)
    else:
        await unbind()
        await fixture.migrate(way=Way(idle=True))
    await fixture.guest.ask("bind", "ready", fixture.running)
    await fixture.guest.work(fixture.running)
    await fixture.guest.verify(fixture.running)
    await fixture.migrate()
    await fixture.guest.verify(fixture.running)


async def sleeps(stage):
    """The guest is suspended to RAM when it migrates, and wakes up at the destination."""
    fixture = stage.fixture
    await fixture.guest.ask("unbind", "unbound", fixture.running)
    source = fixture.running
    fixture.guest.send("suspend")

    async def is_suspended():
        return await source.status() == "suspended"

    await wait.until("the guest to suspend", is_suspended, [fixture.guest, source])
    destination = await fixture.launch(fixture.other, incoming=True)
    migration = fixture.migration(destination)
    await migration.begin()
    await migration.must("completed", [destination])
    await wait.until("the destination to load everything", destination.has_loaded, [destination])
    status = await destination.status()
    await source.quit()
    await fixture.guest.moved(source, destination)
    fixture.running = destination
    since = len(fixture.guest.events)
    try:
        await destination.execute("system_wakeup")
    except Trouble as trouble:
        # 7.2 does not migrate that the guest is suspended, and cannot wake it.
        if fixture.settings.qemu != "7.2":
            raise
        stage.finds("loses", f"{status} at the destination; {trouble}")
        fixture.lost = True
        return
    await fixture.guest.next("beat", destination, since)
    await fixture.guest.ask("bind", "ready", destination)
    await fixture.guest.work(destination)
    await fixture.guest.verify(destination)


async def panics(stage):
    """The guest's kernel has panicked, and the guest migrates all the same."""
    fixture = stage.fixture
    since = len(fixture.guest.events)
    source = fixture.running
    fixture.guest.send("panic")
    await fixture.guest.next("panics", source, since)
    await source.until_printed("the guest's kernel to panic", b"Kernel panic")
    fixture.lost = True
    destination = await fixture.launch(fixture.other, incoming=True)
    migration = fixture.migration(destination)
    await migration.begin()
    await migration.must("completed", [destination])
    await wait.until("the destination to run", destination.is_running, [destination])
    for saved, loaded in zip(source.devices, destination.devices, strict=True):
        stage.say(f"loaded {loaded.status()['load_bytes']} bytes")
        if loaded.status()["load_bytes"] != saved.status()["pre_copy_bytes"] + saved.status()["stop_copy_bytes"]:
            raise Trouble("the destination did not load what the source saved")


async def boots(stage):
    """The guest migrates while its kernel boots."""
    fixture = stage.fixture
    await fixture.boots_at_destination("the guest's kernel to boot", BOOTS)
    await fixture.guest.verify(fixture.running)


async def unplugs(stage):
    """The devices are unplugged, the guest migrates without them, and they are plugged in at the destination."""
    fixture = stage.fixture
    source = fixture.running
    await fixture.guest.ask("unbind", "unbound", source)
    await source.unplug()
    await fixture.migrate(way=Way(idle=True, settings={"devices": 0}))
    destination = fixture.running
    destination.use(fixture.sides[fixture.side])
    await destination.plug()
    await fixture.guest.ask("bind", "ready", destination)
    await fixture.guest.work(destination)
    await fixture.guest.verify(destination)


async def plugs_meanwhile(stage):
    """QEMU refuses to plug in or to unplug a device during a migration."""
    fixture = stage.fixture
    destination, migration = await phases.reach(fixture, phases.DEVICE)
    for command, words in (("device_add", {"driver": "virtio-rng-pci", "id": "extra", "bus": "port0"}),
                           ("device_del", {"id": f"{fixture.settings.driver}0"})):
        try:
            await fixture.running.execute(command, **words)
        except Trouble as trouble:
            if "migrat" not in str(trouble):
                raise
            stage.finds("refused", str(trouble))
        else:
            raise Trouble(f"QEMU did not refuse {command}")
    await fixture.running.execute("migrate_cancel")
    await migration.ended([fixture.guest])
    await fixture.drop(destination)
    await fixture.goes_on()


def plans(prefix, qemu):
    """Yields the plans of a QEMU version."""
    settings = Settings(qemu=qemu, append=SMALL)
    yield Plan(f"{prefix}_guest", settings, (
        case("reset", "reset in pre-copy", cases.reboots),
        case("reset_switchover", "reset at the switch-over", resets_at_the_switchover),
        case("off_ram", "power-off in pre-copy, before device data", powers_off, phase=phases.RAM),
        case("off_device", "power-off in pre-copy, after device data", powers_off, phase=phases.DEVICE),
        case("no_driver", "no driver bound", unbinds, meanwhile=False),
        case("unbinds", "the driver unbound in pre-copy, bound after", unbinds, meanwhile=True),
    ), group="guest", seconds=280)
    # A guest that was woken up cannot power off: QEMU ignores it, also without a migration.
    yield Plan(f"{prefix}_guest_suspended", settings, (sleeps,), group="guest", feature="suspended to RAM",
               whole=False, seconds=60)
    yield Plan(f"{prefix}_guest_panics", Settings(qemu=qemu, append=(*SMALL, "panic=0")), (panics,), group="guest",
               feature="panicked", whole=False, seconds=40)
    # So that it prints BOOTS.
    yield Plan(f"{prefix}_guest_boots", replace(settings, append=(*SMALL, "loglevel=6")), (boots,), group="guest",
               feature="migrates while it boots", boots=False, seconds=50)
    yield Plan(f"{prefix}_smp", Settings(qemu=qemu, processors=4, append=SMALL), (cases.live,), group="guest",
               feature="4 processors", seconds=90)
    yield Plan(f"{prefix}_small", Settings(qemu=qemu, memory="96M", append=SMALL),
               (cases.live,), group="guest", feature="96 MiB of memory", seconds=60)
    yield Plan(f"{prefix}_large", Settings(qemu=qemu, memory="4G"), (cases.live,), group="guest",
               feature="4 GiB of memory", seconds=90)
    yield Plan(f"{prefix}_hot_plug", Settings(qemu=qemu, hot_plug="pref64-reserve=32M", append=SMALL), (
        case("after", "a device plugged in before", cases.live),
        case("meanwhile", "plugged in or unplugged meanwhile", plugs_meanwhile),
        case("unplugged", "unplugged before, plugged in after", unplugs),
    ), group="guest", seconds=120)


PLANS = [
    *(plan for prefix, qemu in versions() for plan in plans(prefix, qemu)),
    Plan("v2_qemu11_hot_plug_without_room", Settings(qemu="11", hot_plug="hotplug=on"), (cases.names_the_bar,),
         whole=False, boots=False, group="guest", feature="plugged in without room for its BAR: the guest says so",
         seconds=30),
]
