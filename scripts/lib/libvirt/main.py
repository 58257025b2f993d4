# SPDX-License-Identifier: GPL-2.0
"""Runs the tests with libvirt: on machine A, which uses machine B.

Runs in both virtual machines, in the build root. They share /out.
"""

import argparse
import asyncio
import os
import sys
import traceback

from hosts import remote
from libvirt import daemon
from libvirt.cases import TESTS, Stage
from libvirt.virsh import Virsh
from migrate import wait
from migrate.device import Module
from migrate.host import HERE
from migrate.ktap import Ktap
from migrate.qemu import copy_image
from migrate.wait import Trouble

DIRECTORY = "/tmp/libvirt"


async def run(addresses):
    """Runs the tests, and returns the exit status."""
    ktap = Ktap(len(TESTS))
    os.mkdir(DIRECTORY)
    async with remote.Other(addresses["B"]) as other:
        machines = {side: Virsh(side, address) for side, address in addresses.items()}
        for virsh in machines.values():
            await wait.until(f"libvirt at {virsh.side}", virsh.answers)
        # The domain names the device by its UUID, so that both have the same.
        devices = {side: host.device("mdma", "libvirt", "16M") for side, host in (("A", HERE), ("B", other))}
        logs = [host.log() for host in (HERE, other)]
        stage = Stage(ktap, machines, devices, DIRECTORY)
        lost = None
        for number, test in enumerate(TESTS, 1):
            try:
                if lost:
                    raise Trouble(f"{lost} has failed")
                await test(stage)
                refused = [line for log in logs for line in log.refusals()]
                if refused:
                    raise Trouble(f"the kernel logged: {'; '.join(refused)}")
                why = None
            except Trouble as trouble:
                why = f"{type(trouble).__name__}: {trouble}"
            except Exception:  # pylint: disable=broad-except
                why = traceback.format_exc()
            if why:
                lost = lost or test.__name__
                if stage.running:
                    ktap.say(stage.running.words())
            ktap.result(f"libvirt_{number}_{test.__name__}", why)
        for virsh in machines.values():
            await virsh.run("destroy", "guest")
        for device in devices.values():
            device.remove()
    return 1 if ktap.failed else 0


def main():
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("A", "B"))
    parser.add_argument("a", help="the address of machine A")
    parser.add_argument("b", help="the address of machine B")
    options = parser.parse_args()
    copy_image()
    addresses = {"A": options.a, "B": options.b}
    module = Module()
    try:
        module.load(("mdma",))
        daemon.start(options.side, addresses)
        if options.side == "A":
            status = asyncio.run(run(addresses))
        else:
            ktap, status = Ktap(1), 0
            remote.serve(options.b)
        module.unload()
        if options.side == "B":
            ktap.result("libvirt_b_unloads")
        return status
    except Trouble as trouble:
        print(f"FAILED: {trouble}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
