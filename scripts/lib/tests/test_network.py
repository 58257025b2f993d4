# SPDX-License-Identifier: GPL-2.0
"""Tests of vm.network: the two ends of a network."""

import unittest

from vm import network


class Ends(unittest.TestCase):
    def test_the_addresses_differ(self):
        self.assertEqual([network.address(f"/run:{number}") for number in (1, 2)], ["10.0.0.1/24", "10.0.0.2/24"])

    def test_each_sends_to_the_other(self):
        here, there = (" ".join(network.words(f"/run:{number}")) for number in (1, 2))
        self.assertIn("local.path=/run/1,remote.type=unix,remote.path=/run/2 ", here)
        self.assertIn("local.path=/run/2,remote.type=unix,remote.path=/run/1 ", there)

    def test_the_mac_addresses_differ(self):
        self.assertNotEqual(*(network.words(f"/run:{number}")[-1] for number in (1, 2)))
