# SPDX-License-Identifier: GPL-2.0
"""Runs the tests with two machines: on machine A, which uses machine B.

Runs in both virtual machines, in the build root. They share /out.
"""

import argparse
import asyncio
import os
import sys

from hosts import remote
from hosts.plans import PLANS
from migrate import suite
from migrate.device import Module, run
from migrate.host import Host
from migrate.ktap import Ktap
from migrate.qemu import copy_image
from migrate.wait import Trouble

# Where QEMUs see what the machines share, also from their root file systems.
WORK = "/tmp/hosts"


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("A", "B"))
    parser.add_argument("a", help="the address of machine A")
    parser.add_argument("b", help="the address of machine B")
    parser.add_argument("--only", help="run only tests whose names match")
    return parser.parse_args()


async def use_both(options, module):
    """Runs the tests."""
    async with remote.Other(options.b) as other:
        plans = [(plan, plan.names()) for plan in PLANS]
        return await suite.run_plans(plans, options, module, WORK, None, {"A": Host(options.a), "B": other})


def serve(options, module):
    """Lets machine A use this one, whose test is that the modules can be unloaded."""
    ktap = Ktap(1)
    module.load(("mdma",))
    remote.serve(options.b)
    module.unload()
    ktap.result("hosts_b_unloads")
    return 0


def main():
    """Runs the command and returns its exit status."""
    options = arguments()
    copy_image()
    os.mkdir(WORK)
    run(["mount", "--bind", "/out", WORK])
    module = Module()
    try:
        if options.side == "B":
            return serve(options, module)
        status = asyncio.run(use_both(options, module))
        module.unload()
        return status
    except Trouble as trouble:
        print(f"FAILED: {trouble}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
