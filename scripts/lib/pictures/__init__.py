# SPDX-License-Identifier: GPL-2.0
"""Looks at the pages of `vfio-migrate plot` and of scripts/bench in a browser."""
