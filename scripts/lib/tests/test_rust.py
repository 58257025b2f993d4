# SPDX-License-Identifier: GPL-2.0
"""Tests of check.rust."""

import pathlib
import tempfile
import unittest

from check import rust


def texts(source):
    """Returns the texts of the tokens of a source."""
    return [token.text for token in rust.tokens(source)]


class Tokens(unittest.TestCase):
    def test_comments_are_left_out(self):
        self.assertEqual(texts("a // b\n/* c /* d */ e */ f"), ["a", "f"])

    def test_literals_hide_their_contents(self):
        source = """x("// \\" unsafe", r#"a " unsafe"#, b'\\'', 'u', '\\u{1f}', '"')"""
        self.assertNotIn("unsafe", texts(source))
        self.assertEqual(texts(source)[-1], ")")

    def test_lifetimes_are_no_characters(self):
        self.assertEqual(texts("&'a b<'c>"), ["&", "'a", "b", "<", "'c", ">"])

    def test_lines_are_counted_in_literals_and_comments(self):
        tokens = rust.tokens('"a\nb" /*\n*/\nlast')
        self.assertEqual(tokens[-1].line, 4)


class Edges(unittest.TestCase):
    def edges(self, **files):
        """Returns the imports of a crate: "importer imported", with "/" as "__" in `files`."""
        with tempfile.TemporaryDirectory() as name:
            top = pathlib.Path(name).resolve()
            for path, text in files.items():
                file = top / (path.replace("__", "/") + ".rs")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            found = set()
            for root in rust.crates([top]):
                for file, targets in rust.edges(root).items():
                    for target in targets:
                        pair = (str(path.relative_to(top).with_suffix("")) for path in (file, target))
                        found.add(" ".join(pair))
            return found

    def test_a_declaration_is_no_import(self):
        self.assertEqual(self.edges(lib="mod a; pub mod b;", a="", b=""), set())

    def test_a_use_is_an_import(self):
        self.assertEqual(self.edges(lib="mod a; mod b;", a="use crate::b::T;", b=""), {"a b"})

    def test_groups_and_aliases(self):
        found = self.edges(
            lib="mod a; mod b; mod c;", a="use crate::{b::{self, X as Y}, c as d};", b="", c=""
        )
        self.assertEqual(found, {"a b", "a c"})

    def test_a_reexport_is_an_import_by_the_parent(self):
        found = self.edges(lib="mod a; mod b; pub use a::T;", a="", b="use crate::T;")
        self.assertEqual(found, {"lib a", "b lib"})

    def test_super_and_globs(self):
        found = self.edges(lib="mod a;", a="mod b; mod c;", a__b="use super::*;", a__c="use super::b::*;")
        self.assertEqual(found, {"a/b a", "a/c a/b"})

    def test_a_folder_with_a_mod_file(self):
        found = self.edges(lib="mod a;", a__mod="mod b; use b::T;", a__b="use super::super::X;")
        self.assertEqual(found, {"a/mod a/b", "a/b lib"})

    def test_a_qualified_path_in_code(self):
        found = self.edges(lib="mod a; mod b;", a="fn f() { crate::b::g::<u8>() }", b="")
        self.assertEqual(found, {"a b"})

    def test_a_path_through_an_imported_module(self):
        found = self.edges(lib="mod a; mod b;", a="use crate::b; fn f() { b::c::g() }", b="mod c;", b__c="")
        self.assertEqual(found, {"a b", "a b/c"})

    def test_an_inline_module_belongs_to_its_file(self):
        found = self.edges(lib="mod a; mod b;", a="mod tests { use super::*; use crate::b::T; }", b="")
        self.assertEqual(found, {"a b"})

    def test_code_after_an_inline_module_is_seen(self):
        found = self.edges(lib="mod a; mod b;", a="mod m { fn f() {} } use crate::b::T;", b="")
        self.assertEqual(found, {"a b"})

    def test_other_crates_do_not_count(self):
        found = self.edges(lib="mod a; mod b;", a="use b::T; use ::b::T; use core::mem;", b="")
        self.assertEqual(found, set())

    def test_visibility_and_comments_do_not_count(self):
        found = self.edges(lib="mod a; mod b;", a="/// [`crate::b::T`]\npub(in crate::b) fn f() {}", b="")
        self.assertEqual(found, set())

    def test_an_exported_macro_leads_to_its_file(self):
        found = self.edges(
            lib="mod a; mod b;",
            a="#[macro_export]\nmacro_rules! m { () => { $crate::c() } }",
            b="use crate::m;",
        )
        self.assertEqual(found, {"a lib", "b a"})

    def test_a_path_attribute(self):
        found = self.edges(lib='#[path = "x/y.rs"] mod a; use a::T;', x__y="use crate::U;")
        self.assertEqual(found, {"lib x/y", "x/y lib"})

    def test_each_root_is_a_crate(self):
        found = self.edges(lib="mod a;", main="mod b; use b::T;", a="", b="use crate::main;")
        self.assertEqual(found, {"main b", "b main"})
