# SPDX-License-Identifier: GPL-2.0
"""Tests of pictures.png."""

import struct
import unittest
import zlib

from pictures import png


def encoded(filters):
    """A PNG of 2 x 5 pixels in which each row has another filter; the first pixel of a row is black."""
    rows = [bytes(kind for kind in [number]) + bytes(data) for number, data in enumerate(filters)]

    def chunk(kind, data):
        return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 2, len(rows), 8, 2, 0, 0, 0)
    return png.SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


# Each row is 0 0 0, 10 20 30.
FILTERS = [
    [0, 0, 0, 10, 20, 30],
    [0, 0, 0, 10, 20, 30],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 5, 10, 15],
    [0, 0, 0, 0, 0, 0],
]


class Pixels(unittest.TestCase):
    def test_all_filters(self):
        width, step, rows = png.pixels(encoded(FILTERS))
        self.assertEqual((width, step), (2, 3))
        self.assertEqual(rows, [bytearray([0, 0, 0, 10, 20, 30])] * 5)

    def test_colours_and_lightness(self):
        image = encoded(FILTERS)
        self.assertEqual(png.colours(image), {b"\0\0\0": 5, bytes([10, 20, 30]): 5})
        self.assertAlmostEqual(png.lightness(image), 60 / 765 / 2)

    def test_what_is_no_png(self):
        with self.assertRaises(ValueError):
            png.colours(b"GIF89a")


if __name__ == "__main__":
    unittest.main()
