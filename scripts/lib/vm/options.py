# SPDX-License-Identifier: GPL-2.0
"""What QEMU and user-mode Linux have in common."""

COMMAND_LINE = (
    "console=ttyS0 ignore_loglevel printk.devkmsg=on panic=-1 oops=panic "
    # A busy host must not look like a hung kernel.
    "rcupdate.rcu_cpu_stall_timeout=300 sysctl.kernel.watchdog_thresh=60 "
    "sysctl.kernel.hung_task_timeout_secs=300 random.trust_cpu=on")


def shared(options):
    """Returns the tag, the host's directory and the guest's directory of each --share."""
    return [(f"share{number}", *pair.rsplit(":", 1)) for number, pair in enumerate(options.share)]
