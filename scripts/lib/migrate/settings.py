# SPDX-License-Identifier: GPL-2.0
"""The settings of a guest and its migrations."""

from dataclasses import dataclass

from migrate.version import VERSIONS, Version


@dataclass(frozen=True)
class Settings:
    """A guest, its devices and its migrations."""

    qemu: str = "7.2"
    driver: str = "mdma"
    irq: str = "msix"
    devices: int = 1
    # Memory of each device, and of the guest.
    size: str = "16M"
    memory: str = "256M"
    seed: int = 1
    # Each device also writes to memory of the next one.
    peers: bool = False
    # The guest has an IOMMU, which translates all DMA of its devices.
    viommu: bool = False
    # Additions to the guest's kernel command line and to QEMU's -device options.
    append: tuple = ()
    device_options: tuple = ()
    # Guest memory: "anonymous", or a shared file on "ext4".
    backing: str = "anonymous"
    # The firmware boots from the device, which has the image of scripts/boot-disk.
    boots_from_disk: bool = False
    # Plugs in the devices after the guest has booted, each below a root port with this option.
    hot_plug: str = ""
    # Runs QEMU as a user who may not lock memory.
    ordinary_user: bool = False
    # Migration capabilities and parameters, on both sides.
    capabilities: tuple = ("events", "return-path")
    downtime_ms: int = 300
    multifd_channels: int = 0

    @property
    def version(self) -> Version:
        """The QEMU version."""
        return VERSIONS[self.qemu]

    @property
    def initrd(self):
        """The name of the guest's initrd."""
        return "initrd-disk" if self.driver == "mnvme" else "initrd"

    @property
    def copies_rings(self):
        """Whether the device copies its rings, because guest memory cannot be pinned."""
        return self.ordinary_user or self.backing != "anonymous"

    @property
    def protocol(self):
        """The migration protocol, "v1" or "v2"."""
        return self.version.protocol

    def words(self):
        """Returns a description."""
        words = [f"QEMU {self.qemu}", self.protocol, self.driver, self.irq,
                 f"{self.devices} devices" if self.devices > 1 else "1 device"]
        words += ["vIOMMU"] if self.viommu else []
        words += ["peer-to-peer"] if self.peers else []
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
                    size=options.size or size, memory=options.memory or memory, seed=options.seed)
