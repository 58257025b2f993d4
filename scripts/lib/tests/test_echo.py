# SPDX-License-Identifier: GPL-2.0
"""Tests of the echo of a serial line that moves."""

import socket
import unittest

from migrate.echo import Echo


class EchoTest(unittest.TestCase):
    """A line with two ends, each a pair of sockets: the echo's and the device's."""

    def setUp(self):
        self.pairs = [socket.socketpair() for _ in range(2)]
        for ours, device in self.pairs:
            self.addCleanup(ours.close)
            self.addCleanup(device.close)
            ours.setblocking(False)
            device.setblocking(False)
        self.devices = [device for _, device in self.pairs]
        self.echo = Echo([ours.fileno() for ours, _ in self.pairs])

    def stop(self, number):
        """Makes an end take nothing."""
        ours = self.pairs[number][0]
        try:
            while True:
                ours.send(bytes(4096))
        except BlockingIOError:
            pass

    def test_bytes_come_back(self):
        self.stop(1)
        self.devices[0].send(b"hello")
        self.assertEqual(self.echo.receive(), 5)
        self.assertEqual(self.echo.send(), 5)
        self.assertEqual(self.devices[0].recv(99), b"hello")

    def test_bytes_of_the_end_that_the_guest_left_are_older(self):
        for left in (0, 1):
            with self.subTest(left=left):
                self.setUp()
                self.stop(left)
                self.devices[1 - left].send(b"world")
                self.devices[left].send(b"hello ")
                self.echo.receive()
                self.assertEqual(self.echo.send(), 11)
                self.assertEqual(self.devices[1 - left].recv(99), b"hello world")

    def test_bytes_wait_while_no_end_takes_them(self):
        self.stop(0)
        self.stop(1)
        self.devices[0].send(b"x")
        self.echo.receive()
        self.assertEqual(self.echo.send(), 0)
        self.assertEqual(self.echo.waiting, b"x")
        self.echo.forget()
        self.assertEqual(self.echo.waiting, b"")


if __name__ == "__main__":
    unittest.main()
