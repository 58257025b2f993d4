#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The command of check.requirements, in scripts/lib; --help describes it."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))

from check.requirements import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
