# SPDX-License-Identifier: GPL-2.0
"""Tests of libvirt.domain: the XML of a domain."""

import os
import tempfile
import unittest
from unittest import mock
from xml.etree import ElementTree

from libvirt import domain

UUID = "3c6b9fc7-cc1a-5f95-9ca6-2afabafd6a68"
OVERRIDE = "./{http://libvirt.org/schemas/domain/qemu/1.0}override//"


class Xml(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        with open(os.path.join(folder.name, "append"), "w", encoding="ascii") as file:
            file.write("console=ttyS0\n")
        image = mock.patch("libvirt.domain.IMAGE", folder.name)
        image.start()
        self.addCleanup(image.stop)

    def read(self, **options):
        return ElementTree.fromstring(domain.xml(UUID, **options))

    def test_it_has_the_device(self):
        self.assertEqual(self.read().find("devices/hostdev/source/address").get("uuid"), UUID)

    def test_the_override_enables_migration(self):
        properties = [each.attrib for each in self.read().findall(OVERRIDE) if "value" in each.attrib]
        self.assertEqual(properties, [{"name": "enable-migration", "type": "string", "value": "on"}])
        self.assertEqual(self.read(override=False).findall(OVERRIDE), [])

    def test_it_has_a_disk_if_asked_for(self):
        self.assertEqual(self.read(disk="/disk").find("devices/disk/source").get("file"), "/disk")
        self.assertIsNone(self.read().find("devices/disk"))
