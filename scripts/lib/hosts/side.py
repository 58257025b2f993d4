# SPDX-License-Identifier: GPL-2.0
"""One of two machines: A runs the tests, and uses B.

The program runs in both virtual machines, in the build root. They share /out.
"""

import argparse
import asyncio

from hosts import remote
from migrate.device import Module
from migrate.ktap import Ktap
from migrate.qemu import copy_image
from migrate.wait import Trouble


def parser():
    """Returns the parser of a command line with the side and the addresses of both."""
    found = argparse.ArgumentParser()
    found.add_argument("side", choices=("A", "B"))
    found.add_argument("a", help="the address of machine A")
    found.add_argument("b", help="the address of machine B")
    return found


def serve(name, address, module):
    """Lets machine A use this one, whose test is that the modules can be unloaded."""
    ktap = Ktap(1)
    remote.serve(address)
    module.unload()
    ktap.result(f"{name}_b_unloads")
    return 0


def main(name, options, prepare, use):
    """Runs the command with these options, and returns its exit status.

    Both machines call `prepare` with their side, the addresses of both, and the modules. Machine A then runs
    `use` with the addresses and the modules, which returns the status of its tests.
    """
    addresses = {"A": options.a, "B": options.b}
    copy_image()
    module = Module()
    try:
        prepare(options.side, addresses, module)
        if options.side == "B":
            return serve(name, options.b, module)
        status = asyncio.run(use(addresses, module))
        module.unload()
        return status
    except Trouble as trouble:
        print(f"FAILED: {trouble}", flush=True)
        return 1
