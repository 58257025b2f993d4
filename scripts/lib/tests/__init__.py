# SPDX-License-Identifier: GPL-2.0
"""Unit tests of the packages beside it: python3 -m unittest discover -s scripts/lib -t scripts/lib."""
