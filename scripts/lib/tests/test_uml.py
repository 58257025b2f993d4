# SPDX-License-Identifier: GPL-2.0
"""Tests of vm.uml: options that user-mode Linux lacks, and what the host must offer."""

import argparse
import unittest
from unittest import mock

from vm import uml


def options(**changed):
    """Returns the options of a machine."""
    chosen = {"root": False, "cpu": None, "qemu": [], "network": None, "secure_boot": None, "memory": "64M",
              "cpus": "2", "kernel": "/vmlinux", "shell": False, "append": ["nokaslr"], **changed}
    return argparse.Namespace(**chosen)


class Host(unittest.TestCase):
    def check(self, free=1 << 30, mappings=65530, **changed):
        place = mock.Mock(f_bavail=free >> 12, f_frsize=4096)
        with mock.patch("os.statvfs", return_value=place), mock.patch("vm.uml.mappings", return_value=mappings):
            return uml.check(options(**changed))

    def test_a_usual_host_will_do(self):
        self.assertIsNone(self.check())

    def test_options_that_need_an_emulated_machine(self):
        self.assertIn("--root", self.check(root=True))
        self.assertIn("--cpu", self.check(cpu="max"))
        self.assertIn("--qemu", self.check(qemu=["-icount"]))
        self.assertIn("--network", self.check(network="/run:1"))
        self.assertIn("--secure-boot", self.check(secure_boot="/root:/variables"))

    def test_too_little_memory_names_both_sizes(self):
        problem = self.check(free=100 << 20, memory="1G")
        self.assertIn("1G", problem)
        self.assertIn("100 MiB", problem)

    def test_a_size_that_is_none(self):
        self.assertIn("lots", self.check(memory="lots"))

    def test_few_mappings_name_the_command(self):
        self.assertIn("sysctl -w vm.max_map_count=", self.check(mappings=65529))

    def test_a_host_without_seccomp(self):
        self.assertIn("seccomp", uml.explain("SECCOMP userspace requested but not functional!\n"))
        self.assertIsNone(uml.explain("Checking that seccomp filters can be installed...OK\n"))


class Command(unittest.TestCase):
    def test_the_output_goes_to_the_second_line(self):
        words = uml.command(options(), "/run", 5, 6)
        self.assertEqual(words[:2], ["/vmlinux", "mem=64M"])
        self.assertIn("ssl0=null,fd:5", words)
        self.assertIn("ssl1=null,fd:6", words)
        self.assertIn("initrd=/run/initramfs", words)
        self.assertEqual(words[-1], "nokaslr")

    def test_a_shell_has_the_terminal(self):
        self.assertIn("ssl1=fd:0,fd:1", uml.command(options(shell=True), "/run", 5, 6))

    def test_sizes(self):
        self.assertEqual([uml.size(text) for text in ("7", "2K", "64m", "3G")], [7, 2048, 64 << 20, 3 << 30])


if __name__ == "__main__":
    unittest.main()
