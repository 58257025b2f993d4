# SPDX-License-Identifier: GPL-2.0
"""Migrates a running guest between two QEMUs; scripts/migrate runs it inside a VM."""
