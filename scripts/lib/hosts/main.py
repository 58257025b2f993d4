# SPDX-License-Identifier: GPL-2.0
"""Runs the tests with two machines."""

import functools
import os
import sys

from hosts import remote, side
from hosts.plans import PLANS
from migrate import suite
from migrate.device import run
from migrate.host import Host

# Where QEMUs see what the machines share, also from their root file systems.
WORK = "/tmp/hosts"


def prepare(name, _addresses, module):
    """Prepares a machine. On A each plan loads the modules."""
    os.mkdir(WORK)
    run(["mount", "--bind", "/out", WORK])
    if name == "B":
        module.load(("mdma",))


async def use_both(addresses, module, options):
    """Runs the tests."""
    async with remote.Other(addresses["B"]) as other:
        plans = [(plan, plan.names()) for plan in PLANS]
        return await suite.run_plans(plans, options, module, WORK, None, {"A": Host(addresses["A"]), "B": other})


def main():
    """Runs the command, and returns its exit status."""
    parser = side.parser()
    parser.add_argument("--only", help="run only tests whose names match")
    options = parser.parse_args()
    return side.main("hosts", options, prepare, functools.partial(use_both, options=options))


if __name__ == "__main__":
    sys.exit(main())
