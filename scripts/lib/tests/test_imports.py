# SPDX-License-Identifier: GPL-2.0
"""Tests of check.imports and check.python."""

import pathlib
import tempfile
import unittest

from check import imports, python

CIRCLE = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}


class Problems(unittest.TestCase):
    def test_no_circle(self):
        self.assertEqual(imports.problems([{"a": {"b"}, "b": set()}]), [])

    def test_a_circle_is_shown_as_a_path(self):
        (message,) = imports.problems([CIRCLE])
        self.assertIn("  a\n  b\n  c\n  a\n", message)

    def test_a_circle_of_two_crates_is_reported_once(self):
        self.assertEqual(len(imports.problems([CIRCLE, CIRCLE])), 1)


class Python(unittest.TestCase):
    def edges(self, **files):
        """Returns "importer imported" of Python files, with "/" as "__" in `files`."""
        with tempfile.TemporaryDirectory() as name:
            top = pathlib.Path(name)
            for path, text in files.items():
                file = top / (path.replace("__", "/") + ".py")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                if file.parent != top:
                    (file.parent / "__init__.py").touch()
            return {
                " ".join(str(path.relative_to(top).with_suffix("")) for path in (file, target))
                for file, targets in python.edges([top]).items()
                for target in targets
            }

    def test_absolute_imports(self):
        found = self.edges(p__a="import p.b\nfrom p import c\nfrom p.d import x", p__b="", p__c="", p__d="")
        self.assertEqual(found, {"p/a p/b", "p/a p/c", "p/a p/d"})

    def test_relative_imports(self):
        found = self.edges(p__a="from . import b\nfrom .c import x", p__b="", p__c="")
        self.assertEqual(found, {"p/a p/b", "p/a p/c"})

    def test_an_import_in_a_function(self):
        self.assertEqual(self.edges(a="def f():\n    import b\n", b="import os"), {"a b"})
