# SPDX-License-Identifier: GPL-2.0
"""How QEMU opens devices: by their group, or by their character device with iommufd."""

import os

IOMMUFD = "/dev/iommu"


class Backend:
    """What a QEMU opens; descriptors if it gets them."""

    def __init__(self, kind, devices):
        self.kind = kind
        self.devices = devices
        self.files = []
        if kind in ("iommufd-fd", "descriptors"):
            self.files.append(os.open(IOMMUFD, os.O_RDWR))
        if kind == "descriptors":
            self.files += [os.open(cdev(device), os.O_RDWR) for device in devices]

    def options(self):
        """Returns QEMU's options besides those of the devices."""
        if self.kind == "group":
            return []
        return ["-object", "iommufd,id=iommufd" + (f",fd={self.files[0]}" if self.files else "")]

    def device(self, number):
        """Returns the part of a -device option that names a device."""
        if self.kind == "group":
            return f"sysfsdev={self.devices[number].sysfs}"
        if self.kind != "descriptors":
            return f"sysfsdev={self.devices[number].sysfs},iommufd=iommufd"
        return f"fd={self.files[1 + number]},iommufd=iommufd"

    def close(self):
        """Closes what the QEMU has got."""
        for file in self.files:
            os.close(file)
        self.files = []


def cdev(device):
    """Returns the path of a device's character device."""
    name, = os.listdir(f"{device.sysfs}/vfio-dev")
    return f"/dev/vfio/devices/{name}"
