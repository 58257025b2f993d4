# SPDX-License-Identifier: GPL-2.0
"""The tests with libvirt, in order. A guest boots in the fourth one, and goes on in the others."""

import asyncio
import os

from libvirt import domain
from libvirt.domain import NAME, Run
from libvirt.process import Process
from libvirt.virsh import call
from migrate import wait
from migrate.fixture import BOOTS
from migrate.guest import Guest
from migrate.migration import Device as Moved
from migrate.wait import Emulation, Trouble

# Seconds between two questions for the progress of a migration.
PAUSE = 5
SNAPSHOT = "now"
# QEMU sends again and again what the device has pinned, until all of it fits in the downtime. On a slow host the
# default of 300 ms is too short for that.
DOWNTIME_MS = 5000
# A node device that libvirt shall create.
NODE_DEVICE = """
<device>
  <parent>mdma</parent>
  <capability type='mdev'>
    <type id='mdma-16M'/>
    <uuid>6a6f0d2e-8d0c-4d4e-9a57-0e0f1f6a3f02</uuid>
  </capability>
</device>
"""

# Why QEMU does not migrate a device, if nothing tells it to.
BLOCKED = "{uuid}: VFIO device doesn't support device and IOMMU dirty tracking"


class Stage:
    """Both machines, and the guest."""

    def __init__(self, ktap, machines, devices, directory):
        self.ktap = ktap
        # By side: virsh, and a device. Both have the same UUID.
        self.machines = machines
        self.devices = devices
        self.directory = directory
        self.guest = None
        self.running = None
        self.boots = 0

    def say(self, text):
        """Prints a diagnostic text."""
        self.ktap.say(text)

    @property
    def side(self):
        """The machine of the guest."""
        return self.running.virsh.side

    @property
    def virsh(self):
        """The libvirt of the guest."""
        return self.running.virsh

    def file(self, name, text):
        """Writes a file, and returns its path."""
        path = f"{self.directory}/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    async def boot(self, **options):
        """Boots the guest on machine A, and waits until it works."""
        virsh = self.machines["A"]
        for left in reversed(range(BOOTS)):
            self.boots += 1
            self.guest = Guest(f"{self.directory}/guest.{self.boots}.json")
            await virsh("define", self.file("guest.xml", domain.xml(self.devices["A"].uuid, **options)))
            self.running = Run(virsh)
            await virsh("start", NAME, "--paused")
            await self.connect(self.running)
            await virsh("resume", NAME)
            try:
                await self.guest.next("ready", self.running, 0)
                await self.guest.work(self.running)
                return
            except Emulation as trouble:
                self.say(f"boots again: {trouble}")
                await virsh("destroy", NAME)
                if not left:
                    raise

    async def connect(self, run):
        """Waits until the guest's program can be reached at a machine."""

        async def connected():
            try:
                await self.guest.connect(run)
            except OSError:
                return False
            return True

        await wait.until(f"the serial port of the guest at {run.name}", connected)

    async def goes_on(self, run):
        """Goes on with the guest where it runs now, and makes it verify all data."""
        await self.guest.moved(self.running, run)
        self.running = run
        await self.guest.work(run)
        await self.guest.verify(run)

    async def continues(self, *command):
        """Goes on with the guest that a command of virsh starts again on the same machine."""
        run = Run(self.virsh)
        await self.virsh(*command, "--paused")
        await self.connect(run)
        await self.virsh("resume", NAME)
        await self.goes_on(run)

    async def copies(self, *command):
        """Runs a command of virsh that copies the memory of the guest. Returns what it printed."""
        await self.virsh("migrate-setmaxdowntime", NAME, str(DOWNTIME_MS))
        return await self.virsh(*command)

    async def migrate(self):
        """Migrates the guest to the other machine. Returns what domjobinfo said meanwhile."""
        source, other = self.virsh, self.machines["B" if self.side == "A" else "A"]
        device = self.devices[source.side]
        run = Run(other)
        migration = asyncio.ensure_future(self.copies(
            "migrate", NAME, other.uri, f"tcp://{other.address}", "--live", "--persistent", "--undefinesource",
            "--verbose"))
        connection = asyncio.ensure_future(self.connect(run))
        told, front_ends = [], set()
        # Not more often: virsh takes the processor from the guest and its migration.
        while not (await asyncio.wait([migration], timeout=PAUSE))[0]:
            done, said = await source.run("domjobinfo", NAME)
            told += [said] if done and not migration.done() else []
            front_ends.add(device.status()["front_end"])
        await migration
        await connection
        moved = Moved(device.status(), self.devices[other.side].status())
        await self.goes_on(run)
        moved.check()
        if "v2" not in front_ends:
            raise Trouble(f"the device was saved by {front_ends}, not by v2")
        self.say(f"{moved.loaded['load_bytes']} bytes of the device, {self.guest.verified} jobs verified")
        return told


async def parent_is_unknown(stage):
    """libvirt does not list the parent, and cannot create an instance of it."""
    virsh = stage.machines["A"]
    parents = await virsh("nodedev-list", "--cap", "mdev_types")
    if parents:
        raise Trouble(f"libvirt lists parents of mediated devices: {parents}")
    for command in ("nodedev-create", "nodedev-define"):
        stage.say(await virsh.refuses("invalid parent device 'mdma'", command,
                                      stage.file("nodedev.xml", NODE_DEVICE)))


async def lists_the_instance(stage):
    """libvirt lists an instance that exists."""
    for side, virsh in stage.machines.items():
        async def listed(virsh=virsh):
            return await virsh("nodedev-list", "--cap", "mdev")

        said = await wait.until(f"libvirt at {side} to list an instance", listed)
        if stage.devices[side].uuid.replace("-", "_") not in said:
            raise Trouble(f"libvirt at {side} lists {said}, not {stage.devices[side].uuid}")
        stage.say(f"{side}: {said}")
        stage.say(await virsh("nodedev-dumpxml", said))


async def needs_the_override(stage):
    """Without enable-migration=on QEMU blocks the migration, and libvirt says so before anything happens."""
    virsh, other = (stage.machines[side] for side in "AB")
    await virsh("define", stage.file("plain.xml", domain.xml(stage.devices["A"].uuid, override=False)))
    await virsh("start", NAME)
    stage.say(await virsh.refuses("cannot migrate domain: " + BLOCKED.format(uuid=stage.devices["A"].uuid),
                                  "migrate", NAME, other.uri, f"tcp://{other.address}", "--live"))
    state = await virsh("domstate", NAME)
    if state != "running":
        raise Trouble(f"the domain is {state}")
    await virsh("destroy", NAME)
    await virsh("undefine", NAME)


async def boots(stage):
    """A domain with <hostdev type='mdev'> and the override boots, and its guest works."""
    await stage.boot()


async def is_confined(stage):
    """QEMU runs as a user without rights. Its /dev has the node of the device, which belongs to that user."""
    qemu = Process(NAME)
    for name, expected in (("CapEff", "0" * 16), ("NoNewPrivs", "1"), ("Seccomp", "2")):
        if qemu.status[name] != expected:
            raise Trouble(f"{name} of QEMU is {qemu.status[name]}, not {expected}")
    if qemu.profile != f"libvirt-{domain.UUID} (enforce)":
        raise Trouble(f"the profile of QEMU is {qemu.profile}")
    node = stage.devices["A"].node.removeprefix("/dev/")
    nodes = qemu.nodes(".", "vfio")
    stage.say(f"QEMU runs as user {qemu.user}, may lock {qemu.locked} bytes, and sees {', '.join(nodes)}")
    if [name for name in nodes if name.startswith("vfio/")] != [node, "vfio/vfio"]:
        raise Trouble(f"QEMU does not see {node} only")
    if qemu.user == 0 or nodes[node].st_uid != qemu.user:
        raise Trouble(f"{node} belongs to user {nodes[node].st_uid}")
    # The group of the device is open, so that nobody else can open it.
    for path, expected in ((f"/dev/{node}", "busy"), ("/dev/kmsg", "not permitted")):
        said = qemu.opens(path)
        if expected not in said:
            raise Trouble(f"opening {path} in the cgroup of QEMU: {said or 'it opens'}")
        stage.say(said)
    owner = os.stat(f"/dev/{node}").st_uid
    if owner != 0:
        raise Trouble(f"{node} of the machine belongs to user {owner}")


async def migrates(stage):
    """The guest migrates to the other machine, and verifies all data. domjobinfo tells how far it is."""
    told = await stage.migrate()
    progress = [said for said in told if "Data processed" in said]
    if not progress:
        raise Trouble(f"domjobinfo did not show the migration, but: {told[-1:]}")
    stage.say(progress[-1])
    stage.say(await stage.virsh("domjobinfo", NAME, "--completed"))


async def saves(stage):
    """virsh save writes the guest to a file, and virsh restore continues it."""
    path = f"{stage.directory}/saved"
    await stage.copies("save", NAME, path)
    stage.say(f"{os.path.getsize(path)} bytes")
    await stage.continues("restore", path)
    os.remove(path)


async def is_managed(stage):
    """virsh managedsave writes the guest to a file of libvirt, and virsh start continues it."""
    await stage.copies("managedsave", NAME)
    stage.say(await stage.virsh("list", "--all", "--managed-save"))
    await stage.continues("start", NAME)


async def reverts(stage, *options):
    """A snapshot of the running guest is made, which goes on. Then libvirt returns to the snapshot, and deletes it."""
    guest, virsh = stage.guest, stage.virsh
    await stage.copies("snapshot-create-as", NAME, SNAPSHOT, *options)
    await guest.work(stage.running)
    await guest.verify(stage.running)
    run = Run(virsh)
    await virsh("snapshot-revert", NAME, SNAPSHOT, "--paused")
    await stage.connect(run)
    await guest.moved(stage.running, run)
    # The guest's counts are those of the snapshot.
    guest.returned()
    stage.running = run
    await virsh("resume", NAME)
    await guest.work(run)
    await guest.verify(run)
    await virsh("snapshot-delete", NAME, SNAPSHOT)


async def external_snapshot(stage):
    """The memory of a snapshot is in a file. An internal one needs a disk, and libvirt says so."""
    stage.say(await stage.virsh.refuses("snapshots require all disks to be selected", "snapshot-create-as", NAME,
                                        SNAPSHOT))
    await reverts(stage, "--memspec", f"{stage.directory}/memory,snapshot=external")


async def internal_snapshot(stage):
    """The memory of a snapshot is in the guest's disk, a qcow2."""
    disk = f"{stage.directory}/disk.qcow2"
    status, said = await call("qemu-img", "create", "-f", "qcow2", disk, "1G")
    if status:
        raise Trouble(f"qemu-img: {said}")
    await stage.boot(disk=disk)
    await reverts(stage)


async def ends(stage):
    """The guest verifies all data and powers off."""
    ended = await stage.guest.end(stage.running)
    stage.say(f"{ended['verified']} jobs verified")
    await stage.virsh("undefine", NAME)


TESTS = (parent_is_unknown, lists_the_instance, needs_the_override, boots, is_confined, migrates, migrates,
         saves, is_managed, external_snapshot, ends, internal_snapshot, ends)
