# SPDX-License-Identifier: GPL-2.0
"""Tests of check.unsafe."""

import unittest

from check import unsafe

# What a tree has to have so that the list is exact.
USED = {name: "unsafe {}" for name in unsafe.ALLOWED_FILES}


class Problems(unittest.TestCase):
    def test_the_listed_files_and_folders_pass(self):
        self.assertEqual(list(unsafe.problems({**USED, "rust/vfio/dma/pins.rs": "unsafe {}"})), [])

    def test_other_code_fails_with_its_line(self):
        found = list(unsafe.problems({**USED, "tools/mdma/src/lib.rs": "\nunsafe fn f() {}"}))
        self.assertEqual(found, ["tools/mdma/src/lib.rs:2: unsafe code is not allowed in this file"])

    def test_comments_strings_and_attributes_pass(self):
        text = '// unsafe\n#![forbid(unsafe_code)]\nconst A: &str = "unsafe";'
        self.assertEqual(list(unsafe.problems({**USED, "tools/mdma/src/lib.rs": text})), [])

    def test_a_listed_file_without_unsafe_fails(self):
        name = min(USED)
        (found,) = unsafe.problems({**USED, name: ""})
        self.assertTrue(found.startswith(f"{name}: has no unsafe code any more"))
