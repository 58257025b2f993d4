# SPDX-License-Identifier: GPL-2.0
"""All plans, by the groups of the support table."""

from migrate.plans import backends, convergence, devices, disks, faults, guests, iommu, life, memory, mutations
from migrate.plans import privilege, switches, transports

PLANS = [
    *transports.PLANS,
    *life.PLANS,
    *guests.PLANS,
    *memory.PLANS,
    *iommu.PLANS,
    *devices.PLANS,
    *disks.PLANS,
    *switches.PLANS,
    *convergence.PLANS,
    *backends.PLANS,
    *privilege.PLANS,
    *faults.PLANS,
    *mutations.PLANS,
]
