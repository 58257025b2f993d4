# SPDX-License-Identifier: GPL-2.0
"""A domain: its XML, and the guest while it runs at one of the machines."""

import os

from migrate import wait
from migrate.qemu import BROKEN, IMAGE
from migrate.settings import SMALL

NAME, UUID = "guest", "6a6f0d2e-8d0c-4d4e-9a57-0e0f1f6a3f01"
# Where the guest's program is reached.
PORT = 4000
# What makes QEMU migrate a device that does not track dirty pages itself.
OVERRIDE = """
  <qemu:override>
    <qemu:device alias='hostdev0'>
      <qemu:frontend>
        <qemu:property name='enable-migration' type='string' value='on'/>
      </qemu:frontend>
    </qemu:device>
  </qemu:override>
"""
DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
"""
DOMAIN = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{domain}</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
    <kernel>{image}/vmlinuz</kernel>
    <initrd>{image}/initrd</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'>
      <source path='/out/console.log' append='on'/>
      <target port='0'/>
    </serial>
    <serial type='tcp'>
      <source mode='bind' host='0.0.0.0' service='{port}'/>
      <protocol type='raw'/>
      <target port='1'/>
    </serial>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' managed='no'>
      <source><address uuid='{uuid}'/></source>
    </hostdev>{disk}
  </devices>{more}
</domain>
"""


def xml(uuid, override=True, disk=None):
    """Returns the XML of a domain with a device."""
    with open(f"{IMAGE}/append", encoding="utf-8") as file:
        append = " ".join([file.read().strip(), "guest.irq=msix", "guest.devices=1", "guest.seed=1", *SMALL])
    return DOMAIN.format(name=NAME, domain=UUID, image=IMAGE, append=append, port=PORT, uuid=uuid,
                         disk=DISK.format(path=disk) if disk else "", more=OVERRIDE if override else "")


class Run:
    """A domain while it runs at one machine: what the events of the guest's program need of a QEMU."""

    count = 0

    def __init__(self, virsh):
        Run.count += 1
        self.virsh = virsh
        self.name = f"{virsh.side}{Run.count}"
        self.channels = {"program": (virsh.address, PORT)}
        self.expected_end = False
        self.log = f"/out/{virsh.side}/{NAME}.log"
        self.begin = os.path.getsize(self.log) if os.path.exists(self.log) else 0

    def words(self):
        """Returns the end of what QEMU has printed."""
        if not os.path.exists(self.log):
            return "no word"
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.begin)
            return " / ".join(file.read().strip().splitlines()[-4:])

    def check(self):
        """Raises if the guest cannot continue."""
        said = self.words()
        for cause, kind in BROKEN.items():
            if cause in said:
                raise kind(f"QEMU {self.name} stopped its guest: {cause}")

    async def state(self):
        """Returns the state of the domain, in virsh's words."""
        return await self.virsh("domstate", NAME)

    async def ended(self):
        """Waits until the domain is shut off, and returns the status that a QEMU would have."""

        async def is_off():
            return await self.state() == "shut off"

        await wait.until(f"the domain at {self.name} to shut off", is_off)
        return 0
