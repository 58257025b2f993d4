# SPDX-License-Identifier: GPL-2.0
"""Checks of the source tree that no packaged tool offers."""

import pathlib

TOP = pathlib.Path(__file__).resolve().parents[3]


def shown(file):
    """Returns the path of a file as messages show it, relative to the checkout."""
    return str(file.relative_to(TOP)) if file.is_relative_to(TOP) else str(file)
