# SPDX-License-Identifier: GPL-2.0
"""Two machines on a network, between which guests migrate."""
