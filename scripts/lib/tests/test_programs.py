# SPDX-License-Identifier: GPL-2.0
"""Tests of the programs of a root file system."""

import os
import unittest

from vm.programs import files, library


class Files(unittest.TestCase):
    """Programs and what they need."""

    def test_a_program_comes_with_its_libraries(self):
        found = files("", ["/usr/bin/bash"])
        self.assertEqual(found[0], "/usr/bin/bash")
        names = [os.path.basename(path) for path in found]
        self.assertIn("libc.so.6", names)
        self.assertTrue(any(name.startswith("ld-linux") for name in names))
        self.assertEqual(len(found), len(set(found)))

    def test_a_missing_library_is_an_error(self):
        with self.assertRaises(LookupError):
            library("", "libnone.so.1", ())


if __name__ == "__main__":
    unittest.main()
