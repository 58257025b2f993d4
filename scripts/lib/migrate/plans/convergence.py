# SPDX-License-Identifier: GPL-2.0
"""Guests that write faster and faster, against the same bandwidth."""

from migrate.plan import Plan, versions
from migrate.report import size
from migrate.settings import Settings

# Jobs a second of the guest; 0 is no limit. A job writes up to 192 KiB of guest and device memory.
RATES = (20, 100, 400, 0)
BANDWIDTH = 32 << 20


async def converges(stage):
    """The guest migrates, at the cost of downtime if it writes faster than QEMU sends."""
    fixture = stage.fixture
    result = await fixture.migrate(max_bandwidth=BANDWIDTH)
    await fixture.guest.verify(fixture.running)
    info, ram = result.info, result.info["ram"]
    jobs = result.during.get("verified", 0) - result.before.get("verified", 0)
    stage.measures({
        "jobs/s": f"{jobs * 1000 / max(info['total-time'], 1):.0f}",
        "RAM": size(ram["transferred"]),
        "looks": str(ram["dirty-sync-count"]),
        "device, pre-copy": size(result.sum("pre_copy_bytes")),
        "passes": str(result.sum("passes")),
        "stopped": size(result.sum("stop_copy_bytes")),
        "limit": f"{result.limit_ms} ms",
        "downtime": f"{info['downtime']} ms",
        "total": f"{info['total-time'] / 1000:.1f} s",
    })


PLANS = [
    Plan(f"{prefix}_rate_{rate or 'unlimited'}", Settings(qemu=qemu, append=(f"guest.rate={rate}",)), (converges,),
         group="convergence", feature=f"{rate} jobs a second" if rate else "jobs without a pause", seconds=60)
    for prefix, qemu in versions() for rate in RATES
]
