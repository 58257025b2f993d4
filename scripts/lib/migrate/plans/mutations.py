# SPDX-License-Identifier: GPL-2.0
"""Modules that lose memory on purpose: the guest notices."""

from migrate import cases
from migrate.plan import Plan
from migrate.settings import Settings

PLANS = [
    Plan("mutation_dirty_page", Settings(), (cases.notices,), module="/mutation/dirty-page/mdma.ko", whole=False,
         seconds=60, always=True),
    Plan("mutation_memory_page", Settings(), (cases.notices,), module="/mutation/memory-page/mdma.ko", whole=False,
         seconds=60),
]
