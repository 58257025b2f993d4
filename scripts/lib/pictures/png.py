# SPDX-License-Identifier: GPL-2.0
"""Reads the pixels of a PNG, as browsers write them: 8 bits a channel, not interlaced."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {2: 3, 6: 4}


def chunks(data):
    """Yields the kind and the contents of each chunk."""
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG")
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8:at + 8 + length]
        at += 12 + length


def pixels(data):
    """Returns the width, the channels and the rows of a PNG, each row a bytearray."""
    head, packed = None, b""
    for kind, contents in chunks(data):
        if kind == b"IHDR":
            head = struct.unpack(">IIBBBBB", contents)
        elif kind == b"IDAT":
            packed += contents
    width, height, depth, colour, _, _, interlaced = head
    if depth != 8 or colour not in CHANNELS or interlaced:
        raise ValueError(f"a PNG of depth {depth}, colour type {colour}, interlaced {interlaced}")
    step = CHANNELS[colour]
    flat = zlib.decompress(packed)
    size = width * step
    rows, before = [], bytearray(size)
    for number in range(height):
        at = number * (size + 1)
        before = unfiltered(flat[at], bytearray(flat[at + 1:at + 1 + size]), before, step)
        rows.append(before)
    return width, step, rows


def unfiltered(kind, row, above, step):
    """Returns a row without its filter."""
    if kind == 0:
        return row
    if kind == 2:
        return bytearray((one + up) & 255 for one, up in zip(row, above))
    for i, one in enumerate(row):
        left = row[i - step] if i >= step else 0
        up = above[i]
        if kind == 1:
            add = left
        elif kind == 3:
            add = (left + up) >> 1
        else:
            corner = above[i - step] if i >= step else 0
            guess = left + up - corner
            add = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
        row[i] = (one + add) & 255
    return row


def colours(data):
    """Returns how many pixels of each colour a PNG has."""
    _, step, rows = pixels(data)
    count = {}
    for row in rows:
        for at in range(0, len(row), step):
            colour = bytes(row[at:at + 3])
            count[colour] = count.get(colour, 0) + 1
    return count


def lightness(data):
    """Returns how light a PNG is, from 0 to 1."""
    count = colours(data)
    return sum(sum(colour) * times for colour, times in count.items()) / (765 * sum(count.values()))
