# SPDX-License-Identifier: GPL-2.0
"""A QEMU process: its command line, its monitor and its exit."""

import asyncio
import logging
import os
import re
import shlex
import shutil
import signal
import time

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from migrate import guest_memory
from migrate import host
from migrate import viommu
from migrate import wait
from migrate.backend import Backend
from migrate.memory_group import Group
from migrate.wait import Emulation, Trouble

# Without frequent events like vfio_region_read, of which there are hundreds of thousands.
TRACE = ["vfio_migration_*", "vfio_save_*", "vfio_load_*", "vfio_state_*", "vfio_vmstate_*",
         "vfio*dirty*", "migration_bitmap_sync_end", "migration_completion*", "migrate_set_state"]

IMAGE = "/tmp/image"

# The emulator that runs the virtual machine does not clear the type of an event after
# its delivery. KVM then refuses to emulate the next register access ("KVM internal
# error"). Asynchronous page faults are such events, and so is a guest's page fault that
# is delivered in two steps.
CPU = "qemu64,kvm-asyncpf=off"

# A line of a dump of registers.
REGISTERS = re.compile(r"[A-Z][A-Z0-9]{1,4} ?=")

# What QEMU prints when the guest cannot continue, although QEMU does not exit.
BROKEN = {"KVM internal error": Emulation, "kvm run failed": Trouble}


def copy_image():
    """Copies the guest's image to a place that all QEMUs see in their root file systems."""
    os.makedirs(IMAGE)
    for name in ("vmlinuz", "initrd", "initrd-disk", "append"):
        if os.path.exists(f"/image/{name}"):
            shutil.copyfile(f"/image/{name}", f"{IMAGE}/{name}")


class Qemu:
    """A QEMU with the devices of one side."""

    def __init__(self, name, settings, devices, directory, beside, ports, where=host.HERE):
        self.name = name
        self.host = where
        self.version = settings.version
        self.devices = devices
        self.beside = beside
        # The number of ports for devices that are plugged in.
        self.ports = ports
        self.directory = directory
        self.settings = settings
        # Where its monitor, the guest's console and the guest's program are reached.
        self.channels = {}
        self.process = None
        self.client = None
        self.events = []
        self.expected_end = False
        self.broken = None
        self.tasks = []
        # The migration capabilities that are on, the parameters that were set, and those of a QEMU that has started.
        self.enabled = set()
        self.tuned = set()
        self.defaults = None
        # Its control group, if it has a limit.
        self.group = None
        self.backend = None

    def path(self, what):
        """Returns the path of a socket or log of this QEMU."""
        return f"{self.directory}/{self.name}.{what}"

    def command(self, incoming):
        """Returns the command line."""
        settings = self.settings
        with open(f"{IMAGE}/append", encoding="utf-8") as file:
            append = [file.read().strip()]
        append += [f"guest.irq={settings.irq}", f"guest.devices={settings.devices}",
                   f"guest.seed={settings.seed}", *settings.append]
        append += ["guest.peers=1"] if settings.peers else []
        append += viommu.append(settings.viommu)
        append += ["guest.registered=0"] if settings.copies_rings else []
        append += ["guest.kind=mserial"] if settings.driver == "mserial" else []
        # The kernel's own driver takes the best kind of interrupt that there is.
        append += ["pci=nomsi"] if (settings.driver, settings.irq) == ("mnvme", "intx") else []
        user = guest_memory.NOBODY if settings.ordinary_user else None
        machine, memory = guest_memory.options(settings, self.name)
        command = [
            *self.version.command(user), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", machine, *memory, "-accel", "kvm", "-cpu", CPU, "-m", settings.memory,
            "-chardev", self.server("qmp"), "-qmp", "chardev:qmp",
            "-msg", "timestamp=on", "-D", self.path("trace"),
        ]
        # Before the devices.
        command += self.backend.options()
        command += viommu.options(settings.viommu)
        command += ["-smp", str(settings.processors)] if settings.processors > 1 else []
        command += settings.words_of_qemu
        if not settings.boots_from_disk:
            command += ["-kernel", f"{IMAGE}/vmlinuz", "-initrd", f"{IMAGE}/{settings.initrd}",
                        "-append", " ".join(append)]
        for channel in ("console", "program"):
            command += ["-chardev", f"{self.server(channel)},logfile={self.path(channel + '.log')}",
                        "-serial", f"chardev:{channel}"]
        for pattern in TRACE:
            command += ["-trace", pattern]
        for number in range(self.ports):
            if settings.hot_plug:
                command += ["-device", f"pcie-root-port,id=port{number},bus=pcie.0,addr={5 + number:#x},"
                            f"chassis={number + 1},{settings.hot_plug}"]
            # A device that was plugged in at the source is there from the start at the destination.
            if number < len(self.devices) and (incoming or not settings.hot_plug):
                command += ["-device", self.device(number)]
        for number, device in enumerate(self.beside):
            command += ["-device", f"vfio-pci,id=beside{number},sysfsdev={device.sysfs},bus=pcie.0,"
                        f"addr={24 + number:#x},{self.version.options}"]
        if incoming:
            command += ["-incoming", "defer", *settings.words_of_destination]
        return command

    def server(self, name):
        """Returns the -chardev option of a channel."""
        return f"socket,id={name},{host.words(self.channels[name])},server=on,wait=off"

    def device(self, number):
        """Returns the -device option of a device."""
        settings = self.settings
        place = f"bus=port{number}" if settings.hot_plug else f"bus=pcie.0,addr={5 + number:#x}"
        options = [f"vfio-pci,id={settings.driver}{number},{self.backend.device(number)},{place}",
                   self.version.options, *settings.device_options]
        if settings.boots_from_disk:
            options.append("bootindex=0")
        if settings.irq == "intx":
            # KVM's own INTx path is set up when the device is created. After a migration it would
            # raise the line that the firmware assigned first.
            options.append("x-no-kvm-intx=on")
        return ",".join(options)

    async def request_unplug(self):
        """Requests that the guest gives up its devices."""
        for number in range(len(self.devices)):
            await self.execute("device_del", id=f"{self.settings.driver}{number}")

    async def unplug(self):
        """Unplugs the devices."""
        since = len(self.events)
        await self.request_unplug()
        await wait.until(f"{self.name} to unplug its devices", lambda: len(self.devices) == sum(
            event["event"] == "DEVICE_DELETED" and "device" in event["data"] for _, event in self.events[since:]),
            [self])
        self.devices = []

    def use(self, devices):
        """Sets the devices to plug in, in a QEMU that has started without any."""
        self.devices = devices
        self.backend = Backend(self.settings.backend, devices)

    async def plug(self):
        """Plugs in the devices."""
        for number in range(len(self.devices)):
            # Only the human monitor takes the words of a command line.
            answer = await self.execute("human-monitor-command", command_line=f"device_add {self.device(number)}")
            # Besides errors, it prints warnings.
            if "Error:" in answer:
                raise Trouble(f"{self.name}: device_add: {answer.strip()}")

    async def start(self, incoming=False):
        """Starts QEMU; with `incoming` it waits for a migration."""
        self.host.enter(self.version)
        self.channels = {name: self.host.channel(self.path(name)) for name in ("qmp", "console", "program")}
        guest_memory.prepare(self.settings)
        if self.settings.memory_max:
            self.group = Group(self.name, self.settings.memory_max)
        if self.settings.ordinary_user:
            guest_memory.own(self.devices, self.directory)
        self.backend = Backend(self.settings.backend, self.devices)
        command = self.command(incoming)
        with open(self.path("command"), "w", encoding="utf-8") as file:
            file.write(shlex.join(command) + "\n")
        limited = self.settings.ordinary_user or self.group
        self.process = self.host.start(command, self.path("stderr"), self.backend.files,
                                       self.prepare if limited else None)
        self.backend.close()
        self.client = QMPClient(self.name)
        log = self.client.logger
        handler = logging.FileHandler(self.path("qmp.log"))
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        # Log the messages, not the internals of the library.
        handler.addFilter(lambda record: record.msg.startswith(("-->", "<--")))
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.propagate = False
        await wait.until(f"the monitor of {self.name}", self.connect, [self])
        self.tasks.append(asyncio.create_task(self.listen()))

    def prepare(self):
        """Sets limits. Runs in the child before it executes QEMU."""
        if self.settings.ordinary_user:
            guest_memory.lock_nothing()
        if self.group:
            self.group.enter()

    async def connect(self):
        try:
            await self.client.connect(self.channels["qmp"])
        except ConnectError:
            return False
        return True

    async def listen(self):
        with self.client.listener() as listener:
            async for event in listener:
                stamp = event["timestamp"]
                self.events.append((stamp["seconds"] + stamp["microseconds"] / 1e6, event))
                if event["event"] == "STOP":
                    self.broken = next((cause for cause in BROKEN if cause in self.words(40)), None)

    async def execute(self, command, **arguments):
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return await wait.event(f"{command} of {self.name}", self.client.execute(command, names or None))
        except ExecuteError as error:
            raise Trouble(f"{self.name}: {command}: {error}") from error
        except (QMPError, OSError) as error:
            self.check()
            raise Trouble(f"{self.name}: {command}: {error or type(error).__name__}; {self.words()}") from error

    async def enable(self, names):
        """Turns on these migration capabilities, and the others off."""
        changed = [{"capability": name, "state": name in names} for name in sorted(self.enabled ^ set(names))]
        if changed:
            await self.execute("migrate-set-capabilities", capabilities=changed)
        self.enabled = set(names)

    async def tune(self, parameters):
        """Sets these migration parameters, and those of an earlier migration as they were at the start."""
        if self.defaults is None:
            self.defaults = await self.execute("query-migrate-parameters")
        wanted = {name.replace("_", "-"): value for name, value in parameters.items()}
        others = {name: self.defaults.get(name, "") for name in self.tuned - wanted.keys()}
        if wanted or others:
            await self.execute("migrate-set-parameters", **others, **wanted)
        self.tuned = set(wanted)

    async def reset(self):
        """Resets the guest, which boots again."""
        since = len(self.events)
        await self.execute("set-action", reboot="reset")
        await self.execute("system_reset")
        await wait.until(f"{self.name} to reset its guest",
                         lambda: any(event["event"] == "RESET" for _, event in self.events[since:]), [self])

    async def status(self):
        """Returns the state of the guest at this QEMU."""
        return (await self.execute("query-status"))["status"]

    async def is_running(self):
        """Whether the guest runs at this QEMU."""
        return (await self.execute("query-status"))["running"]

    async def migration_status(self):
        """Returns the status of the last migration of this QEMU, or None if there was none."""
        return (await self.execute("query-migrate")).get("status")

    async def has_loaded(self):
        """Whether this QEMU has loaded all of a migration."""
        return await self.migration_status() == "completed"

    async def until_printed(self, what, text, watch=()):
        """Waits until the guest's console has printed a text."""
        def printed():
            with open(self.path("console.log"), "rb") as file:
                return text in file.read()

        await wait.until(what, printed, [self, *watch])

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def check(self):
        """Raises if QEMU exited unexpectedly, or if the guest cannot continue."""
        if self.broken:
            raise BROKEN[self.broken](f"QEMU {self.name} stopped its guest: {self.broken}")
        if not self.expected_end and self.process is not None and not self.alive():
            raise Trouble(f"QEMU {self.name} ended with {self.process.poll()}: {self.panic() or self.words()}")

    def panic(self):
        """Returns the line with which the guest's kernel panicked, or None."""
        try:
            with open(self.path("console.log"), encoding="utf-8", errors="replace") as file:
                return next((f"the guest: {line.strip()}" for line in file if "Kernel panic" in line), None)
        except FileNotFoundError:
            return None

    def words(self, lines=4):
        """Returns the end of its error output, without a dump of registers."""
        try:
            with open(self.path("stderr"), encoding="utf-8", errors="replace") as file:
                said = [line for line in file.read().strip().splitlines() if not REGISTERS.match(line)]
            return " / ".join(said[-lines:]) or "no word"
        except FileNotFoundError:
            return "not started"

    def pause(self):
        """Stops the process, which then reads nothing either."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        """Lets a process that was stopped run."""
        if self.alive():
            self.process.send_signal(signal.SIGCONT)

    async def kill(self):
        """Kills the process."""
        self.expected_end = True
        if self.alive():
            self.process.kill()
        await self.ended()

    async def quit(self):
        """Quits QEMU."""
        self.expected_end = True
        if self.alive():
            try:
                await self.client.execute("quit")
            except QMPError:
                pass  # QEMU may exit before it answers.
        status = await self.ended()
        if status:
            raise Trouble(f"QEMU {self.name} ended with {status}: {self.words()}")

    async def ended(self):
        """Waits for the exit, and returns the status."""
        self.expected_end = True
        await wait.until(f"QEMU {self.name} to end", lambda: self.process.poll() is not None)
        for task in self.tasks:
            task.cancel()
        guest_memory.forget(self.name)
        if self.group:
            self.group.remove()
            self.group = None
        try:
            await self.client.disconnect()
        except (QMPError, OSError, EOFError):
            pass
        return self.process.poll()


def now():
    """Returns the time by the clock of QEMU's timestamps."""
    return time.time()
