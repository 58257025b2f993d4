# SPDX-License-Identifier: GPL-2.0
"""A network of two machines: each sends its packets as datagrams to the other one's UNIX socket."""


def parts(option):
    """Returns the directory of the sockets, the number of the machine and that of the other one."""
    directory, _, number = option.rpartition(":")
    return directory, int(number), 3 - int(number)


def address(option):
    """Returns the address of the machine, with the length of the network's prefix."""
    return f"10.0.0.{parts(option)[1]}/24"


def words(option):
    """Returns the words of QEMU's command line."""
    directory, number, other = parts(option)
    return [
        "-netdev", f"dgram,id=network,local.type=unix,local.path={directory}/{number},"
        f"remote.type=unix,remote.path={directory}/{other}",
        "-device", f"virtio-net-pci,netdev=network,mac=52:54:00:00:00:{number:02x}",
    ]
