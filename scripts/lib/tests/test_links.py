# SPDX-License-Identifier: GPL-2.0
"""Tests of doc.links."""

import pathlib
import tempfile
import unittest

from doc import links


class Problems(unittest.TestCase):
    def problems(self, **pages):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in pages.items():
                (pathlib.Path(folder) / f"{name}.html").write_text(text)
            return list(links.problems(pathlib.Path(folder)))

    def test_files_and_anchors_that_exist(self):
        self.assertEqual(
            self.problems(
                a='<a href="b.html#x&lt;T&gt;">b</a> <a href="https://example.org/">s</a>',
                b='<h1 id="x&lt;T&gt;">x</h1> <a class="y" href="a.html?q=1">a</a>',
            ),
            [],
        )

    def test_an_anchor_that_does_not_exist(self):
        self.assertEqual(
            self.problems(a='<p id="there"><a href="#here">h</a>'),
            ["a.html: broken link #here: the page has no anchor here"],
        )

    def test_a_file_that_does_not_exist(self):
        self.assertEqual(
            self.problems(a='<img src="gone.svg">'),
            ["a.html: broken link gone.svg: gone.svg does not exist"],
        )

    def test_encoded_anchors(self):
        self.assertEqual(self.problems(a='<a href="#a%3Cb%3E"></a><p id="a%3Cb%3E">'), [])
        self.assertEqual(self.problems(a='<a href="#a%3Cb%3E"></a><p id="a&lt;b&gt;">'), [])

    def test_ranges_of_lines(self):
        lines = '<a id="1"></a><a id="2"></a>'
        self.assertEqual(self.problems(a=f'{lines}<a href="#1-2"></a>'), [])
        self.assertEqual(
            self.problems(a=f'{lines}<a href="#1-3"></a>'), ["a.html: broken link #1-3: the page has no anchor 1-3"]
        )

    def test_scripts_are_not_read(self):
        self.assertEqual(self.problems(a='<script src="gone.js">write(`<a href="${x}">`)</script>'), [])

    def test_no_pages(self):
        (found,) = self.problems()
        self.assertTrue(found.endswith("has no pages"))
