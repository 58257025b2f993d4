# SPDX-License-Identifier: GPL-2.0
"""Runs a command in a virtual machine; the image of the guest that VMMs migrate."""
