# SPDX-License-Identifier: GPL-2.0
"""All plans, by the groups of the support table."""

from migrate.plans import backends, convergence, cpr_transfer, devices, disks, faults, guests, iommu, life, memory
from migrate.plans import mutations, privilege, switches, transports

PLANS = [
    *transports.PLANS,
    *life.PLANS,
    *guests.PLANS,
    *memory.PLANS,
    *iommu.PLANS,
    *devices.PLANS,
    *disks.PLANS,
    *switches.PLANS,
    *cpr_transfer.PLANS,
    *convergence.PLANS,
    *backends.PLANS,
    *privilege.PLANS,
    *faults.PLANS,
    *mutations.PLANS,
]
