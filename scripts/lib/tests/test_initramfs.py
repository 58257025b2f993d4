# SPDX-License-Identifier: GPL-2.0
"""Tests of vm.initramfs."""

import os
import tempfile
import unittest

from vm.initramfs import Initramfs, Modules, module_depends, normal


class Archive(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "archive")

    def names(self):
        """Returns the names in the archive, in order."""
        with open(self.path, "rb") as file:
            data = file.read()
        found, at = [], 0
        while at < len(data):
            size, length = int(data[at + 54:at + 62], 16), int(data[at + 94:at + 102], 16)
            found.append(data[at + 110:at + 110 + length - 1].decode())
            at += 110 + length + -(110 + length) % 4
            at += size + -size % 4
        return found

    def test_parents_come_first_and_once(self):
        archive = Initramfs(self.path)
        archive.data("/lib/modules/one", b"1")
        archive.data("/lib/modules/two", b"22222")
        archive.data("/lib/modules/one", b"again")
        archive.finish()
        names = self.names()
        self.assertEqual(names.count("lib/modules/one"), 1)
        self.assertLess(names.index("lib"), names.index("lib/modules"))
        self.assertLess(names.index("lib/modules"), names.index("lib/modules/one"))
        self.assertEqual(names[-1], "TRAILER!!!")


class Dependencies(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        directory = os.path.join(folder.name, "7.3.0-test")
        os.mkdir(directory)
        for name, text in {
            "modules.dep": "kernel/a.ko.xz: kernel/b-c.ko.xz kernel/d.ko\n"
                           "kernel/b-c.ko.xz: kernel/d.ko\nkernel/d.ko:\n",
            "modules.builtin": "kernel/built-in.ko\n",
        }.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.modules = Modules(directory)

    def test_each_module_follows_its_dependencies(self):
        self.assertEqual(self.modules.closure(["a"]), ["d", "b_c", "a"])

    def test_what_is_built_in_is_left_out(self):
        self.assertEqual(self.modules.closure(["built_in", "d"]), ["d"])

    def test_an_unknown_module_is_an_error(self):
        with self.assertRaisesRegex(LookupError, "7.3.0-test has no module absent"):
            self.modules.closure(["absent"])

    def test_names(self):
        self.assertEqual(normal("kernel/b-c.ko.xz"), "b_c")

    def test_the_dependencies_of_an_external_module(self):
        for data, expected in ((b"\0depends=mdev,vfio\0", ["mdev", "vfio"]), (b"\0depends=\0", []), (b"", [])):
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                self.assertEqual(module_depends(file.name), expected)
