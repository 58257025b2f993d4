# SPDX-License-Identifier: GPL-2.0
"""The module and its device instances, through sysfs and debugfs."""

import os
import subprocess
import time
import uuid

from migrate.wait import LIMIT, Expired, Trouble

DRIVERS = ("mdma", "mnvme", "mserial")
# The kernel's level of a warning. A lower level is more severe.
WARNING = 4


class Module:
    """The kernel modules of some drivers."""

    def __init__(self):
        self.wanted = None
        self.loaded = []

    def load(self, drivers, path=None, **parameters):
        """Loads the drivers' modules, the first one with `parameters` and from `path`, and unloads others first."""
        wanted = (drivers, path, parameters)
        if self.wanted == wanted:
            return
        self.unload()
        words = [f"{name}={value}" for name, value in parameters.items()]
        for driver in drivers:
            run(["insmod", path or f"/lib/modules/extra/{driver}.ko", *words])
            self.loaded.append(driver)
            # These are for the first one only.
            path, words = None, []
        self.wanted = wanted

    def unload(self):
        """Unloads what is loaded."""
        self.wanted = None
        while self.loaded:
            run(["rmmod", self.loaded[-1]])
            self.loaded.pop()


class Log:
    """The kernel log from now on."""

    def __init__(self):
        self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.file, 0, os.SEEK_END)

    def close(self):
        os.close(self.file)

    def lines(self):
        """Yields the lines since the last call."""
        return (text for _, text in self.records())

    def records(self):
        """Yields level and text of each line since the last call."""
        while True:
            try:
                record = os.read(self.file, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Overwritten before it was read. The next read continues after the gap.
                continue
            head, _, text = record.decode(errors="replace").partition(";")
            yield int(head.partition(",")[0]) & 7, text.partition("\n")[0]

    def mutations(self):
        """Returns the lines in which a mutated module names the pages that it left out."""
        return [line.partition("mutation: ")[2] for line in self.lines() if "mutation: " in line]

    def refusals(self):
        """Returns the lines in which a driver explains a refusal."""
        begins = tuple(f"{driver} " for driver in DRIVERS)
        return [text for level, text in self.records() if level <= WARNING and text.startswith(begins)]


class Device:
    """A device instance."""

    def __init__(self, driver, name, size):
        self.driver = driver
        self.name = name
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        self.size = size
        write(f"/sys/class/mdev_bus/{driver}/mdev_supported_types/{driver}-{size}/create", self.uuid)

    @property
    def sysfs(self):
        return f"/sys/bus/mdev/devices/{self.uuid}"

    @property
    def node(self):
        """The node of its IOMMU group."""
        return "/dev/vfio/" + os.path.basename(os.readlink(f"{self.sysfs}/iommu_group"))

    def load_disk(self, image):
        """Loads a disk image, which stays until the device is removed."""
        run(["mnvme-disk", "load", self.uuid, image])

    def store_disk(self, image):
        """Stores the disk as an image."""
        run(["mnvme-disk", "store", self.uuid, image])

    def inject(self, point, **files):
        """Sets files of a fault point: fail_nth, delay_ms."""
        for name, value in files.items():
            write(f"/sys/kernel/debug/{self.driver}/{self.uuid}/faults/{point}/{name}", str(value))

    def faults(self, point):
        """Returns how many calls have failed at a fault point."""
        with open(f"/sys/kernel/debug/{self.driver}/{self.uuid}/faults/counts", encoding="utf-8") as file:
            counts = dict(line.split(": ") for line in file.read().splitlines())
        return int(counts[f"{point}_failed"])

    def remove(self):
        if os.path.exists(self.sysfs):
            write(f"{self.sysfs}/remove", "1")

    def status(self):
        """Returns the migration status in debugfs, with numbers as int."""
        end = time.monotonic() + LIMIT
        while True:
            status = {}
            with open(f"/sys/kernel/debug/{self.driver}/{self.uuid}/migration", encoding="utf-8") as file:
                for line in file:
                    name, _, value = line.strip().partition(": ")
                    status[name] = int(value) if value.lstrip("-").isdigit() else value
            # The file reads "busy" while the state changes or data is copied.
            if status["state"] != "busy":
                return status
            if time.monotonic() > end:
                raise Expired(f"limit of {LIMIT:.0f} s reached while {self.uuid} was busy")
            time.sleep(0.01)


def run(command):
    """Runs a command; its output is the error if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Trouble(f"{' '.join(command)}: {done.stdout.decode(errors='replace').strip()}")


def write(path, text):
    """Writes a text to a file of sysfs."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Trouble(f"cannot write {text} to {path}: {error.strerror}") from error
