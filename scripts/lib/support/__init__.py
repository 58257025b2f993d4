# SPDX-License-Identifier: GPL-2.0
"""The support table: what works with which VMM, from the reports of tests."""
