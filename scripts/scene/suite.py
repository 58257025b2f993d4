# SPDX-License-Identifier: GPL-2.0
"""The tests with real QEMUs: which guest is booted for which of them."""

import os
import re
import traceback
from dataclasses import dataclass, field

import cases
from ktap import Ktap
from scene import Scene, keep
from settings import Settings
from wait import Trouble

BASE = Settings().capabilities


@dataclass(frozen=True)
class Plan:
    """A guest, and the tests that it goes through one after another."""

    name: str
    settings: Settings
    tests: tuple
    # Parameters of the module, and another build of it.
    parameters: dict = field(default_factory=dict)
    module: str = ""
    # The last test wants the guest to be in order.
    whole: bool = True

    def names(self):
        ends = (cases.ends,) if self.whole else ()
        return [(f"{self.name}_{test.__name__}", test) for test in self.tests + ends]


PLANS = [
    Plan("v1_msix", Settings(),
         (cases.live, cases.trips, cases.other_memory, cases.dies_in_pre_copy, cases.dies_in_stop_and_copy)),
    Plan("v1_two_devices_msi", Settings(irq="msi", devices=2), (cases.live, cases.interrupts)),
    Plan("v1_intx_not_mapped", Settings(irq="intx"), (cases.live, cases.interrupts), {"mmap_staging": 0}),
    Plan("v2_qemu10_intx_switchover_ack", Settings(qemu="10", irq="intx", capabilities=(*BASE, "switchover-ack")),
         (cases.live, cases.interrupts, cases.trips, cases.other_memory, cases.dies_in_pre_copy,
          cases.dies_in_stop_and_copy)),
    Plan("v2_qemu11_two_devices_msi_multifd",
         Settings(qemu="11", irq="msi", devices=2, capabilities=(*BASE, "multifd"), multifd_channels=4,
                  device_options=("x-migration-multifd-transfer=on",)),
         (cases.live, cases.interrupts, cases.dies_in_pre_copy, cases.dies_in_stop_and_copy)),
    Plan("v2_qemu11_msix", Settings(qemu="11"), (cases.live,)),
    Plan("break_dirty_page", Settings(), (cases.notices,), module="/break/dirty-page/mdma.ko", whole=False),
    Plan("break_memory_page", Settings(), (cases.notices,), module="/break/memory-page/mdma.ko", whole=False),
]


class Stage:
    """A guest of a plan as it goes through its tests."""

    def __init__(self, plan, options, ktap, scene):
        self.plan = plan
        self.options = options
        self.ktap = ktap
        self.scene = scene
        # The guest has ended, or is not to be believed any more.
        self.lost = False

    def say(self, text):
        self.ktap.say(text)

    progress = say


async def perform(stage, test):
    """One test; why it failed, if it did."""
    if stage.lost:
        return "the guest was lost before"
    try:
        await test(stage)
        return None
    except Trouble as trouble:
        stage.lost = True
        return f"{type(trouble).__name__}: {trouble}"
    except Exception:  # pylint: disable=broad-except
        stage.lost = True
        return traceback.format_exc()


async def run(options, module, work, out):
    """All of the tests; the exit status."""
    wanted = re.compile(options.only or "")
    plans = [(plan, tests) for plan in PLANS
             if (tests := [pair for pair in plan.names() if wanted.search(pair[0])])]
    ktap = Ktap(sum(len(tests) for _, tests in plans))
    for plan, tests in plans:
        directory = os.path.join(work, plan.name)
        why = None
        ktap.say(f"{plan.name}: {plan.settings.words()}")
        try:
            parameters = {"path": plan.module} if plan.module else {}
            module.load(**parameters, **plan.parameters)
            async with Scene(plan.settings, directory) as scene:
                await scene.boot()
                stage = Stage(plan, options, ktap, scene)
                for name, test in tests:
                    ktap.result(name, await perform(stage, test))
                tests = []
        except Trouble as trouble:
            why = str(trouble)
        except Exception:  # pylint: disable=broad-except
            why = traceback.format_exc()
        for name, _ in tests:
            ktap.result(name, why)
        if not tests and why:
            ktap.say(f"after the tests of {plan.name}: {why}")
            ktap.failed += 1
        if os.path.isdir(directory):
            keep(directory, os.path.join(out, plan.name))
    return 1 if ktap.failed else 0
