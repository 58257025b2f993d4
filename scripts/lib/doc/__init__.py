# SPDX-License-Identifier: GPL-2.0
"""Documents and the crates' documentation as HTML, and checks of their links."""
