# SPDX-License-Identifier: GPL-2.0
"""What a fixture is made of."""

from dataclasses import dataclass

from migrate.version import VERSIONS, Version


@dataclass(frozen=True)
class Settings:
    """A guest, its devices, and how it moves."""

    qemu: str = "7.2"
    irq: str = "msix"
    devices: int = 1
    # Memory of each device, and of the guest.
    size: str = "16M"
    memory: str = "256M"
    seed: int = 1
    # Words for the guest's kernel command line, and for QEMU's device.
    append: tuple = ()
    device_options: tuple = ()
    # What the guest's memory is: "anonymous", or "ext4", a shared file there.
    backing: str = "anonymous"
    # QEMU runs as a user who may lock no memory.
    ordinary_user: bool = False
    # Capabilities and parameters of migrations, at both sides.
    capabilities: tuple = ("events", "return-path")
    downtime_ms: int = 300
    multifd_channels: int = 0

    @property
    def version(self) -> Version:
        return VERSIONS[self.qemu]

    @property
    def copies_rings(self):
        """Whether the guest's memory cannot be pinned."""
        return self.ordinary_user or self.backing != "anonymous"

    @property
    def protocol(self):
        return self.version.protocol

    def words(self):
        """In words, for people."""
        words = [f"QEMU {self.qemu}", self.protocol, self.irq,
                 f"{self.devices} devices" if self.devices > 1 else "1 device"]
        words += [name for name in self.capabilities if name not in ("events", "return-path")]
        return ", ".join(words)
