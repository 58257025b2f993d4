# SPDX-License-Identifier: GPL-2.0
"""How many devices the guest has, of which kind, and what is beside them."""

from dataclasses import replace

from migrate import cases
from migrate.plan import Plan, case, versions
from migrate.settings import SMALL, Settings

BASE = Settings().capabilities
SERIAL = Settings(driver="mserial", sizes=("1",), irq="intx")

BESIDE = ("-device", "e1000,bus=pcie.0,addr=0x14", "-device", "virtio-rng-pci,bus=pcie.0,addr=0x15")
# Memory that belongs to another VM cannot migrate.
BLOCKS = ("-object", "memory-backend-ram,id=shared,size=1M,share=on",
          "-device", "ivshmem-plain,memdev=shared,master=off,bus=pcie.0,addr=0x14")


def plans(prefix, qemu):
    """Yields the plans of a QEMU version."""
    def plan(name, feature, *tests, seconds=70, parameters=(), append=SMALL, **settings):
        return Plan(f"{prefix}_{name}", Settings(qemu=qemu, append=append, **settings), tests, group="devices",
                    feature=feature, parameters=dict(parameters), seconds=seconds)

    yield plan("intx", "INTx", cases.live, cases.interrupts, irq="intx", seconds=120)
    yield plan("two_devices_msi", "2 devices, MSI", cases.live, cases.interrupts, irq="msi", devices=2, seconds=130)
    yield plan("eight_devices", "8 devices of 16 and 256 MiB", cases.live, devices=8, sizes=("16M", "256M"),
               append=(*SMALL, "guest.rate=2"), seconds=180)
    yield plan("beside", "an e1000 and a virtio-rng beside it", cases.live, words_of_qemu=BESIDE)
    yield plan("mixed", "an mserial and an mnvme beside it", cases.live, beside=(("mserial", "1"), ("mnvme", "64M")))
    yield plan("blocked", "a device beside it that cannot migrate",
               case("is_blocked", "a device beside it that cannot migrate", cases.is_blocked, words="ivshmem",
                    whose="QEMU"),
               words_of_qemu=BLOCKS, seconds=35)
    yield Plan(f"{prefix}_serial", replace(SERIAL, qemu=qemu), (cases.live, cases.round_trip), group="devices",
               feature="mserial", seconds=50)
    yield Plan(f"{prefix}_two_serial", replace(SERIAL, qemu=qemu, devices=2), (cases.live, cases.round_trip),
               group="devices", feature="2 mserial", seconds=70)


PLANS = [
    *(plan for prefix, qemu in versions() for plan in plans(prefix, qemu)),
    Plan("v1_intx_not_mapped", Settings(irq="intx", append=SMALL), (cases.live,), group="devices",
         feature="a data section that is not mapped", parameters={"mmap_data_section": 0}, seconds=80),
    *(Plan(f"{prefix}_peers", Settings(qemu=qemu, devices=2, peers=True), (cases.live, cases.trips), group="devices",
           feature="2 devices that write each other's memory", seconds=130)
      for prefix, qemu in versions("10", "11")),
]
