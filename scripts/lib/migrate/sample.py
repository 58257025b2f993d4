# SPDX-License-Identifier: GPL-2.0
"""A moment of a migration."""

from dataclasses import dataclass


@dataclass
class Sample:
    """What was copied of guest RAM and of the devices at one moment."""

    moment: float
    # Bytes copied, and bytes left.
    ram: tuple
    # The status of each device.
    devices: list


def ram_bytes(ram):
    """Returns the bytes of guest RAM that were sent; `transferred` of later QEMUs has those of devices too."""
    return sum(ram.get(name, 0) for name in ("precopy-bytes", "downtime-bytes", "postcopy-bytes", "multifd-bytes"))
