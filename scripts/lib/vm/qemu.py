# SPDX-License-Identifier: GPL-2.0
"""QEMU as the virtual machine."""

import subprocess

from vm import network, secure_boot
from vm.options import COMMAND_LINE, shared

NAME = "QEMU"
CPUS = "2"
# A busy host must not look like a broken timer.
PARAMETERS = "no_timer_check tsc=reliable mitigations=off"

# The port of vm.machine.Wakeup.
ENVIRONMENT = ("WAKEUP_TTY=ttyS2",)


def check(_options):
    """Returns why QEMU cannot run with these options, or None."""
    return None


def parameters(options):
    """Returns the kernel's command line."""
    return " ".join([COMMAND_LINE, PARAMETERS, *options.append])


def command(options, directory):
    """Returns QEMU's command line."""
    cpu = options.cpu or ("host" if options.accel == "kvm" else "max,la57=off")
    accel = "tcg,thread=multi" if options.accel == "tcg" else options.accel
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "pc", "-accel", accel, "-cpu", cpu, "-smp", options.cpus, "-m", options.memory,
        "-chardev", f"file,id=console,path={directory}/console", "-serial", "chardev:console",
    ]
    if options.secure_boot:
        words += secure_boot.words(options, directory)
    else:
        words += ["-kernel", options.kernel, "-initrd", f"{directory}/initramfs", "-append", parameters(options)]
    if options.shell:
        words += ["-chardev", "stdio,id=output,signal=off"]
    else:
        words += ["-chardev", f"file,id=output,path={directory}/output"]
    words += [
        "-serial", "chardev:output",
        "-chardev", f"file,id=wakeup,path=/dev/null,input-path={directory}/wakeup", "-serial", "chardev:wakeup",
    ]
    if options.network:
        words += network.words(options.network)
    shares = []
    if options.out:
        shares += [("out", options.out, "")]
    if options.root:
        shares += [("root", options.build_root, ",readonly=on"), ("modules", options.modules, ",readonly=on")]
    shares += [(tag, host, ",readonly=on") for tag, host, _ in shared(options)]
    for tag, path, more in shares:
        words += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"]
    return words + options.qemu


def start(options, directory, errors):
    """Starts QEMU. Returns the process, and the processes that write its output to files."""
    if options.secure_boot:
        secure_boot.prepare(options, directory, parameters(options))
    process = subprocess.Popen(
        command(options, directory), stderr=errors, stdin=None if options.shell else subprocess.DEVNULL)
    return process, []


def explain(_messages):
    """Returns what to do about the messages of a QEMU that did not start, or None."""
    return None
