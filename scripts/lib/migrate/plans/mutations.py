# SPDX-License-Identifier: GPL-2.0
"""Modules that lose memory on purpose: the guest notices."""

from migrate import cases
from migrate.plan import Plan
from migrate.settings import SMALL, Settings

# The tests compare all of the guest's memory.
SETTINGS = Settings(memory="96M", append=SMALL)

PLANS = [
    Plan("mutation_dirty_page", SETTINGS, (cases.notices,), module="/mutation/dirty-page/mdma.ko", whole=False,
         seconds=60, always=True),
    Plan("mutation_memory_page", SETTINGS, (cases.notices,), module="/mutation/memory-page/mdma.ko", whole=False,
         seconds=60),
]
