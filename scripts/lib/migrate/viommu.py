# SPDX-License-Identifier: GPL-2.0
"""The guest's IOMMU."""

# Remapping of interrupts would need another kind of interrupt controller.
INTEL = ("-device", "intel-iommu,caching-mode=on,intremap=off")

OPTIONS = {
    "": (),
    "intel": INTEL,
    "passthrough": INTEL,
    "virtio": ("-device", "virtio-iommu-pci,bus=pcie.0,addr=2"),
}

APPEND = {
    "": (),
    "intel": ("intel_iommu=on", "iommu.passthrough=0", "iommu.strict=1"),
    "passthrough": ("intel_iommu=on", "iommu=pt"),
    "virtio": ("iommu.passthrough=0", "iommu.strict=1"),
}


def options(kind):
    """Returns QEMU's options for a kind of IOMMU."""
    return OPTIONS[kind]


def append(kind):
    """Returns words of the guest's kernel command line."""
    return APPEND[kind]
