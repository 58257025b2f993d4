# SPDX-License-Identifier: GPL-2.0
"""The test plans with real QEMUs: which guest is booted for which tests."""

import os
import re
import traceback
from dataclasses import dataclass, field, replace

from migrate import cases
from migrate import disk
from migrate import faults
from migrate.ktap import Ktap
from migrate.fixture import Fixture, keep
from migrate.settings import Settings
from migrate.wait import Emulation, Trouble

# Guests per plan: if the emulator's bug hits a guest, the next one runs the tests that
# are left.
GUESTS = 3

BASE = Settings().capabilities
NVME = {"driver": "mnvme", "size": "64M", "memory": "512M"}
# 256 MiB of guest memory for the device, of which 1 % is written.
LARGE = ("guest.memory=256M", "guest.written=2560K")
SERIAL = Settings(driver="mserial", size="1", irq="intx")


@dataclass(frozen=True)
class Plan:
    """A guest, and the tests that run with it, in order."""

    name: str
    settings: Settings
    tests: tuple
    # Parameters of the module, and the path of another build.
    parameters: dict = field(default_factory=dict)
    module: str = ""
    # Whether the plan ends with a test that all data is correct.
    whole: bool = True
    # Whether the guest works before the first test.
    boots: bool = True

    def names(self):
        """Returns pairs of name and test."""
        ends = (cases.ends,) if self.whole else ()
        return [(f"{self.name}_{test.__name__}", test) for test in self.tests + ends]


PLANS = [
    Plan("v1_msix", Settings(),
         (cases.live, cases.trips, cases.other_memory, cases.dies_in_pre_copy, cases.dies_in_stop_and_copy,
          cases.stops_and_goes_on, cases.reboots)),
    Plan("v1_two_devices_msi", Settings(irq="msi", devices=2), (cases.interrupts,)),
    Plan("v1_intx_not_mapped", Settings(irq="intx"), (cases.live, cases.interrupts), {"mmap_data_section": 0}),
    Plan("v2_qemu10_switchover_ack", Settings(qemu="10", capabilities=(*BASE, "switchover-ack")),
         (cases.live, cases.interrupts, cases.trips, cases.other_memory, cases.dies_in_pre_copy,
          cases.dies_in_stop_and_copy, cases.reboots)),
    Plan("v2_qemu10_intx", Settings(qemu="10", irq="intx"), (cases.live, cases.interrupts)),
    Plan("v2_qemu11_two_devices_msi_multifd",
         Settings(qemu="11", irq="msi", devices=2, capabilities=(*BASE, "multifd"), multifd_channels=4,
                  device_options=("x-migration-multifd-transfer=on",)),
         (cases.live, cases.interrupts, cases.dies_in_pre_copy, cases.dies_in_stop_and_copy)),
    Plan("v2_qemu10_peers", Settings(qemu="10", devices=2, peers=True), (cases.live, cases.trips)),
    Plan("v2_qemu11_peers", Settings(qemu="11", devices=2, peers=True), (cases.live, cases.trips)),
    *(Plan(f"v2_qemu{qemu}_{name}", Settings(qemu=qemu, memory="768M", append=(*LARGE, f"guest.registered={size}")),
           (cases.registered,))
      for qemu in ("10", "11") for name, size in (("registered", "256M"), ("not_registered", "256K"))),
    Plan("v1_viommu", Settings(viommu=True, append=("guest.memory=16M",)), (cases.live,)),
    Plan("v2_qemu10_viommu", Settings(qemu="10", viommu=True), (cases.is_refused,), whole=False, boots=False),
    Plan("v2_qemu11_viommu", Settings(qemu="11", viommu=True, append=("guest.memory=16M",)), (cases.live,)),
    Plan("v2_qemu11_msix", Settings(qemu="11"), (cases.live,)),
    Plan("v2_qemu10_memory_on_ext4", Settings(qemu="10", backing="ext4"), (cases.copied_rings,)),
    Plan("v2_qemu11_ordinary_user", Settings(qemu="11", ordinary_user=True), (cases.copied_rings,)),
    Plan("v1_hot_plug", Settings(hot_plug="pref64-reserve=32M"), (cases.live,)),
    Plan("v2_qemu11_hot_plug", Settings(qemu="11", hot_plug="pref64-reserve=32M"), (cases.live,)),
    Plan("v2_qemu11_hot_plug_without_room", Settings(qemu="11", hot_plug="hotplug=on"), (cases.names_the_bar,),
         whole=False, boots=False),
    Plan("v1_nvme", Settings(**NVME), (disk.there, disk.back, cases.reboots)),
    Plan("v2_qemu10_nvme_intx", Settings(qemu="10", irq="intx", **NVME), (disk.there, disk.back)),
    Plan("v2_qemu10_nvme", Settings(qemu="10", **NVME), (disk.there, disk.back)),
    Plan("v2_qemu11_nvme", Settings(qemu="11", **NVME), (disk.there, disk.back, cases.reboots)),
    Plan("v1_nvme_boot", Settings(**{**NVME, "size": "256M"}, boots_from_disk=True),
         (disk.boots_from_it, disk.ends_and_is_stored), whole=False, boots=False),
    Plan("v2_qemu11_nvme_boot", Settings(qemu="11", **{**NVME, "size": "256M"}, boots_from_disk=True),
         (disk.boots_from_it, disk.ends_and_is_stored), whole=False, boots=False),
    Plan("v1_serial", SERIAL, (cases.live, cases.round_trip)),
    Plan("v2_qemu10_serial", replace(SERIAL, qemu="10"), (cases.live, cases.round_trip)),
    Plan("v2_qemu11_two_serial", replace(SERIAL, qemu="11", devices=2), (cases.live, cases.round_trip)),
    *(Plan(f"{name}_faults", Settings(qemu=qemu), (faults.fails, faults.waits, faults.does_not_run), whole=False)
      for name, qemu in (("v1", "7.2"), ("v2_qemu10", "10"), ("v2_qemu11", "11"))),
    *(Plan(f"{name}_stop", Settings(qemu=qemu), (faults.stop_fails,), whole=False)
      for name, qemu in (("v2_qemu10", "10"), ("v2_qemu11", "11"))),
    Plan("mutation_dirty_page", Settings(), (cases.notices,), module="/mutation/dirty-page/mdma.ko", whole=False),
    Plan("mutation_memory_page", Settings(), (cases.notices,), module="/mutation/memory-page/mdma.ko", whole=False),
]


class Stage:
    """The state of a plan while its tests run."""

    def __init__(self, plan, options, ktap, fixture):
        self.plan = plan
        self.options = options
        self.ktap = ktap
        self.fixture = fixture
        # Whether the guest has ended or failed.
        self.lost = False

    def say(self, text):
        """Prints a diagnostic text."""
        self.ktap.say(text)

    progress = say


async def perform(stage, test, last):
    """Runs a test, and returns the reason of a failure. Raises the emulator's bug unless this is the `last` guest."""
    if stage.lost:
        return "the guest ended or failed in an earlier test"
    try:
        await test(stage)
        return None
    except Emulation as trouble:
        if not last:
            raise
        stage.lost = True
        return str(trouble)
    except Trouble as trouble:
        stage.lost = True
        return f"{type(trouble).__name__}: {trouble}"
    except Exception:  # pylint: disable=broad-except
        stage.lost = True
        return traceback.format_exc()


async def go_through(stage, tests, last):
    """Runs the tests, and removes each from the list once it has a result."""
    while tests:
        name, test = tests[0]
        why = await perform(stage, test, last)
        tests.pop(0)
        stage.ktap.result(name, why)


async def run(options, module, work, out):
    """Runs all tests, and returns the exit status."""
    wanted = re.compile(options.only or "")
    plans = [(plan, tests) for plan in PLANS
             if (tests := [pair for pair in plan.names() if wanted.search(pair[0])])]
    ktap = Ktap(sum(len(tests) for _, tests in plans))
    for plan, tests in plans:
        ktap.say(f"{plan.name}: {plan.settings.words()}")
        why = None
        for number in range(1, GUESTS + 1):
            directory = os.path.join(work, f"{plan.name}.{number}")
            try:
                module.load(plan.settings.driver, plan.module, **plan.parameters)
                async with Fixture(plan.settings, directory) as fixture:
                    if plan.boots:
                        await fixture.boot()
                    await go_through(Stage(plan, options, ktap, fixture), tests, number == GUESTS)
                why = None
                break
            except Emulation as trouble:
                ktap.say(f"continues with another guest: {trouble}")
                why = str(trouble)
            except Trouble as trouble:
                why = str(trouble)
                break
            except Exception:  # pylint: disable=broad-except
                why = traceback.format_exc()
                break
            finally:
                if os.path.isdir(directory):
                    keep(directory, os.path.join(out, os.path.basename(directory)))
        if not tests and why:
            ktap.say(f"{plan.name}, after its tests: {why}")
            ktap.failed += 1
        for name, _ in tests:
            ktap.result(name, why)
    return 1 if ktap.failed else 0
