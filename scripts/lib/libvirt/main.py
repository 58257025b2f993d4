# SPDX-License-Identifier: GPL-2.0
"""Runs the tests with libvirt on two machines."""

import os
import sys
import traceback

from hosts import remote, side
from libvirt import daemon
from libvirt.cases import TESTS, Stage
from libvirt.virsh import Virsh
from migrate import wait
from migrate.host import HERE
from migrate.ktap import Ktap
from migrate.wait import Trouble

DIRECTORY = "/tmp/libvirt"


def prepare(name, addresses, module):
    """Prepares a machine."""
    module.load(("mdma",))
    daemon.start(name, addresses)


async def use_both(addresses, _module):
    """Runs the tests, and returns the exit status."""
    ktap = Ktap(len(TESTS))
    os.mkdir(DIRECTORY)
    async with remote.Other(addresses["B"]) as other:
        machines = {name: Virsh(name, address) for name, address in addresses.items()}
        for virsh in machines.values():
            await wait.until(f"libvirt at {virsh.side}", virsh.answers)
        # The domain names the device by its UUID, so that both have the same.
        devices = {name: host.device("mdma", "libvirt", "16M") for name, host in (("A", HERE), ("B", other))}
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


if __name__ == "__main__":
    sys.exit(side.main("libvirt", side.parser().parse_args(), prepare, use_both))
