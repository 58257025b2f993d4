# SPDX-License-Identifier: GPL-2.0
"""The guest's IOMMU."""

from migrate import cases
from migrate.plan import Plan, versions
from migrate.settings import Settings

KINDS = {
    "intel": "intel-iommu, caching mode, the guest translates",
    "passthrough": "intel-iommu, caching mode, the guest passes through",
    "virtio": "virtio-iommu, the guest translates",
}


def plan(prefix, qemu, kind, feature):
    """Returns a plan. QEMU 10 refuses a device below a vIOMMU."""
    settings = Settings(qemu=qemu, viommu=kind, append=("guest.memory=16M",))
    refused = qemu == "10"
    return Plan(f"{prefix}_iommu_{kind}", settings, (cases.is_refused if refused else cases.live,), group="IOMMU",
                feature=feature, whole=not refused, boots=not refused, seconds=5 if refused else 90)


PLANS = [plan(prefix, qemu, kind, feature) for prefix, qemu in versions() for kind, feature in KINDS.items()]
