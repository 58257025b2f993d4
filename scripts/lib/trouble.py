# SPDX-License-Identifier: GPL-2.0
"""Lines of a kernel log that report a fault of the kernel: the patterns of trouble.txt."""

import os
import re

PATTERNS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trouble.txt")


def regex(patterns):
    """Returns a regular expression that finds any of the patterns."""
    return re.compile("|".join(
        r"(?<!\w)" + ".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns))


def read(path=PATTERNS):
    """Returns the expressions for trouble and for harmless lines."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    lines = [line for line in lines if line and not line.startswith("#")]
    return (regex(line for line in lines if not line.startswith("!")),
            regex(line[1:] for line in lines if line.startswith("!")))


TROUBLE, HARMLESS = read()


def is_trouble(line):
    """Whether a line of the kernel log reports a fault of the kernel."""
    return bool(TROUBLE.search(line)) and not HARMLESS.search(line)
