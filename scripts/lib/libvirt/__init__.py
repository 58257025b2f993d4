# SPDX-License-Identifier: GPL-2.0
"""A guest with one of our devices under libvirt, on two machines."""
