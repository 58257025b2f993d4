# SPDX-License-Identifier: GPL-2.0
"""libvirt's daemon on a machine, in a Debian root of its own."""

import os

from migrate.device import run, write


# The root of Debian's libvirt and QEMU, and where it can be written: that is lost with the machine.
SHARED, LAYERS = "/target", "/mnt/target"
ROOT = f"{LAYERS}/root"
# Directories of the machine that are visible in it.
BOUND = ("dev", "proc", "sys", "tmp", "out")
# Without systemd there is nobody to ask who may connect, and no virtlogd.
FILES = {
    "libvirtd.conf": """
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "00000000-0000-4000-8000-{digits:012x}"
log_outputs = "2:file:/out/libvirtd-{side}.log"
""",
    "qemu.conf": """
security_driver = "apparmor"
stdio_handler = "file"
""",
}
# libvirt confines QEMU by AppArmor only if it is confined itself.
PROFILES = ("usr.sbin.libvirtd", "usr.lib.libvirt.virt-aa-helper")


def in_root(*command):
    """Returns the words that run a command in the root."""
    return ["chroot", ROOT, "/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]


def host_name(side):
    """Returns the name of a machine."""
    return f"host-{side.lower()}"


def enter():
    """Prepares the root."""
    os.makedirs(LAYERS)
    run(["mount", "-t", "tmpfs", "target", LAYERS])
    for name in ("upper", "work", "root"):
        os.mkdir(f"{LAYERS}/{name}")
    run(["mount", "-t", "overlay", "target", ROOT, "-o",
         f"lowerdir={SHARED},upperdir={LAYERS}/upper,workdir={LAYERS}/work"])
    for name in BOUND:
        os.makedirs(f"{ROOT}/{name}", exist_ok=True)
        # With what is mounted below: the control groups.
        run(["mount", "--rbind", f"/{name}", f"{ROOT}/{name}"])
    run(["mount", "-t", "tmpfs", "run", f"{ROOT}/run"])


def start(side, addresses):
    """Starts udev, which tells libvirt of devices, and libvirt's daemon."""
    enter()
    address = addresses[side]
    write("/proc/sys/kernel/hostname", host_name(side))
    write(f"{ROOT}/etc/hosts", "".join(f"{where} {host_name(name)}\n" for name, where in addresses.items()))
    for name, text in FILES.items():
        write(f"{ROOT}/etc/libvirt/{name}", text.format(side=side, address=address, digits=ord(side)))
    os.makedirs(f"/out/{side}", exist_ok=True)
    os.makedirs(f"{ROOT}/var/log/libvirt/qemu", exist_ok=True)
    run(["mount", "--bind", f"/out/{side}", f"{ROOT}/var/log/libvirt/qemu"])
    run(in_root("/usr/lib/systemd/systemd-udevd", "--daemon"))
    # udev starts after the machine's kernel has made the node.
    run(in_root("udevadm", "trigger", "--action=add", "--sysname-match=kvm"))
    run(in_root("udevadm", "settle"))
    run(["mount", "-t", "securityfs", "security", f"{ROOT}/sys/kernel/security"])
    run(in_root("apparmor_parser", "--replace", *(f"/etc/apparmor.d/{name}" for name in PROFILES)))
    run(["python3", "-m", "libvirt.root", "libvirtd", "--listen", "--daemon"])
