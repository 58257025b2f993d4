# SPDX-License-Identifier: GPL-2.0
"""Tests of vm.secure_boot: what the machine finds on its system partition."""

import argparse
import os
import tempfile
import unittest

from vm import secure_boot


class Partition(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.machine = os.path.join(self.folder.name, "machine")
        self.root = os.path.join(self.folder.name, "root")
        for name in secure_boot.PROGRAMS.values():
            self.write(os.path.join(self.root, name), name)
        for name in ("variables", "vmlinuz", "machine/initramfs"):
            self.write(os.path.join(self.folder.name, name), name)
        self.options = argparse.Namespace(
            kernel=f"{self.folder.name}/vmlinuz", secure_boot=f"{self.root}:{self.folder.name}/variables")

    def write(self, path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)

    def read(self, name):
        with open(os.path.join(self.machine, name), encoding="ascii") as file:
            return file.read()

    def test_everything_is_copied(self):
        secure_boot.prepare(self.options, self.machine, "quiet")
        for name, source in secure_boot.PROGRAMS.items():
            self.assertEqual(self.read(f"esp/{name}"), source)
        self.assertEqual(self.read("esp/vmlinuz"), "vmlinuz")
        self.assertEqual(self.read("esp/initramfs"), "machine/initramfs")
        self.assertIn("linux /vmlinuz quiet\n", self.read("esp/EFI/debian/grub.cfg"))

    def test_the_machine_has_variables_of_its_own(self):
        secure_boot.prepare(self.options, self.machine, "")
        self.assertEqual(self.read("variables"), "variables")
        words = " ".join(secure_boot.words(self.options, self.machine))
        self.assertIn(f"file={self.machine}/variables", words)
        self.assertNotIn(f"file={self.folder.name}/variables", words)
