# SPDX-License-Identifier: GPL-2.0
"""The settings of a guest and its migrations."""

from dataclasses import dataclass

from migrate.version import VERSIONS, Version


# A guest that writes little memory, where the amount does not matter.
SMALL = ("guest.memory=8M", "guest.device=4M")


@dataclass(frozen=True)
class Settings:
    """A guest, its devices and its migrations."""

    qemu: str = "7.2"
    # The QEMU of side B, if it is another one, and the type of the machine, which both have.
    other_qemu: str = ""
    machine: str = "q35"
    driver: str = "mdma"
    irq: str = "msix"
    devices: int = 1
    # Memory of each device, in turn, and of the guest.
    sizes: tuple = ("16M",)
    memory: str = "256M"
    seed: int = 1
    # Each device also writes to memory of the next one.
    peers: bool = False
    # The guest's IOMMU: "intel" or "virtio" translates all DMA of its devices, "passthrough" is an
    # Intel one that translates none.
    viommu: str = ""
    # Additions to the guest's kernel command line and to QEMU's -device options.
    append: tuple = ()
    device_options: tuple = ()
    # Guest memory: "anonymous", "memfd", "hugetlb", two nodes of "numa", or a shared file on "tmpfs" or "ext4".
    backing: str = "anonymous"
    # Processors of the guest.
    processors: int = 1
    # Devices that the guest's program does not use, as pairs of driver and size.
    beside: tuple = ()
    # Words for QEMU's command line, on both sides, and those for a destination.
    words_of_qemu: tuple = ()
    words_of_destination: tuple = ()
    # The limit of QEMU's memory control group.
    memory_max: str = ""
    # The firmware boots from the device, which has the image of scripts/boot-disk.
    boots_from_disk: bool = False
    # Plugs in the devices after the guest has booted, each below a root port with this option.
    hot_plug: str = ""
    # How QEMU opens the devices: by their "group", by their "cdev" with iommufd, so with an "iommufd-fd" that it
    # gets, or all as "descriptors" that it gets.
    backend: str = "group"
    # Runs QEMU as a user who may not lock memory.
    ordinary_user: bool = False
    # Migration capabilities and parameters, on both sides.
    capabilities: tuple = ("events", "return-path")
    parameters: tuple = ()
    downtime_ms: int = 300

    @property
    def version(self) -> Version:
        """The QEMU version."""
        return VERSIONS[self.qemu]

    @property
    def drivers(self):
        """The drivers of all devices, that of the guest's program first."""
        return (self.driver, *(driver for driver, _ in self.beside if driver != self.driver))

    @property
    def initrd(self):
        """The name of the guest's initrd."""
        return "initrd-disk" if self.driver == "mnvme" else "initrd"

    @property
    def copies_rings(self):
        """Whether the device copies its rings, because guest memory cannot be pinned."""
        return self.ordinary_user or self.backing == "ext4"

    @property
    def registers_memory(self):
        """Whether the guest registers memory, which pins it."""
        return self.driver == "mdma" and not self.copies_rings

    @property
    def protocol(self):
        """The migration protocol, "v1" or "v2"."""
        return self.version.protocol

    def words(self):
        """Returns a description."""
        qemus = f"QEMU {self.qemu} and {self.other_qemu}" if self.other_qemu else f"QEMU {self.qemu}"
        words = [qemus, self.protocol, self.driver, self.irq,
                 f"{self.devices} devices" if self.devices > 1 else "1 device"]
        words += [f"{self.processors} processors"] if self.processors > 1 else []
        words += [f"memory on {self.backing}"] if self.backing != "anonymous" else []
        words += [f"vIOMMU {self.viommu}"] if self.viommu else []
        words += ["peer-to-peer"] if self.peers else []
        words += [f"by {self.backend}"] if self.backend != "group" else []
        words += [f"hot-plug with {self.hot_plug}"] if self.hot_plug else []
        words += [name for name in self.capabilities if name not in ("events", "return-path")]
        return ", ".join(words)


# The size of the device, which names its type, and that of the guest.
SIZES = {"mdma": ("16M", "256M"), "mnvme": ("64M", "512M"), "mserial": ("1", "256M")}


def chosen(options):
    """Returns the settings that the command line asks for."""
    size, memory = SIZES[options.device]
    irq = options.irq or ("intx" if options.device == "mserial" else "msix")
    return Settings(qemu=options.qemu, driver=options.device, irq=irq, devices=options.devices,
                    sizes=(options.size or size,), memory=options.memory or memory, seed=options.seed)
