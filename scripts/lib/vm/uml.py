# SPDX-License-Identifier: GPL-2.0
"""User-mode Linux as the virtual machine: the kernel is a process of the host."""

import os
import re
import subprocess

from vm.options import COMMAND_LINE

NAME = "user-mode Linux"
# With two, a thread keeps pages that the kernel takes away on the other processor
# (Documentation/findings.rst).
CPUS = "1"
# A serial line that is not named here would open a terminal of the host.
PARAMETERS = "con=null con0=null,null ssl=null"
ENVIRONMENT = ()

# Where the memory of the machine is. The kernel otherwise looks for a place itself.
MEMORY = "/dev/shm"
# Each page of a process is a mapping of its own on the host. This is Linux's default limit.
MAPPINGS = 65530


def size(text):
    """Returns the number of bytes of a size such as 3G."""
    number, unit = re.fullmatch(r"(\d+)([KMGkmg]?)", text).groups()
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit.upper()]


def mappings():
    """Returns the limit of mappings per process."""
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        return int(file.read())


def check(options):
    """Returns why user-mode Linux cannot run with these options, or None."""
    for name in ("root", "cpu", "qemu", "network", "secure-boot"):
        if getattr(options, name.replace("-", "_")):
            return f"user-mode Linux has no --{name}: use the emulated machine (unset KDIR)"
    if not re.fullmatch(r"\d+[KMGkmg]?", options.memory):
        return f"--memory {options.memory}: not a size"
    place = os.statvfs(MEMORY)
    free = place.f_bavail * place.f_frsize
    if free < size(options.memory):
        return (f"user-mode Linux needs {options.memory} in {MEMORY}, which has {free >> 20} MiB left: "
                "end other machines, or give it less with --memory")
    if mappings() < MAPPINGS:
        return (f"vm.max_map_count is {mappings()}, user-mode Linux needs {MAPPINGS}. As root:\n\n"
                "    sysctl -w vm.max_map_count=262144\n")
    return None


def command(options, directory, console=3, output=4):
    """Returns the command line; the kernel log goes to one descriptor, the output to another."""
    channel = "fd:0,fd:1" if options.shell else f"null,fd:{output}"
    return [
        options.kernel, f"mem={options.memory}", f"ncpus={options.cpus}", "seccomp=on",
        f"initrd={directory}/initramfs", *COMMAND_LINE.split(), *PARAMETERS.split(),
        f"ssl0=null,fd:{console}", f"ssl1={channel}", *options.append,
    ]


def start(options, directory, errors):
    """Starts it. Returns the process, and the processes that write its output to files.

    The kernel waits until it can write to a serial line, and the host cannot wait for
    files, so that the lines are pipes.
    """
    writers, ends = [], []
    for name in ("console", "output"):
        read, write = os.pipe()
        with open(f"{directory}/{name}", "ab") as file:
            writers.append(subprocess.Popen(["cat"], stdin=read, stdout=file))
        os.close(read)
        ends.append(write)
    try:
        process = subprocess.Popen(
            command(options, directory, *ends), pass_fds=ends, stderr=errors,
            stdout=None if options.shell else errors, stdin=None if options.shell else subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": MEMORY})
    finally:
        for end in ends:
            os.close(end)
    return process, writers


def explain(messages):
    """Returns what to do about the messages of a kernel that did not start, or None."""
    if "SECCOMP userspace requested but not functional" in messages:
        return ("this host lets no process install a seccomp filter, which user-mode Linux needs: "
                "allow it in the container's settings, or use the emulated machine (scripts/try --vm)")
    return None
