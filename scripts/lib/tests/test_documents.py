# SPDX-License-Identifier: GPL-2.0
"""Tests of doc.documents."""

import importlib.util
import pathlib
import tempfile
import unittest

HAS_DOCUTILS = importlib.util.find_spec("docutils") is not None
if HAS_DOCUTILS:
    from doc import documents

FOLDER = "Documentation"
TITLE = "Title\n=====\n\n"


@unittest.skipUnless(HAS_DOCUTILS, "needs the package python3-docutils")
class Problems(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name, "top")
        self.output = pathlib.Path(folder.name, "output")
        (self.top / "Documentation").mkdir(parents=True)
        self.output.mkdir()

    def problems(self, **texts):
        for name, text in texts.items():
            (self.top / "Documentation" / f"{name}.rst").write_text(TITLE + text)
        return documents.problems(self.top, self.output)

    def test_links_lead_to_html_and_to_copies(self):
        (self.top / "NOTES.md").write_text("notes")
        self.assertEqual(self.problems(index="`A <a.rst#part>`_, `notes <../NOTES.md>`_", a="`up <index.rst>`_"), [])
        html = (self.output / "index.html").read_text()
        self.assertIn('href="a.html#part"', html)
        self.assertIn('href="files/NOTES.md.txt"', html)
        self.assertEqual((self.output / "files/NOTES.md.txt").read_text(), "notes")

    def test_a_link_to_nothing_fails(self):
        self.assertEqual(
            self.problems(index="`A <gone.rst>`_ and `out <../../out>`_"),
            [
                "Documentation/index.rst:4: the link leads to gone.rst, which is no file of the tree",
                "Documentation/index.rst:4: the link leads to ../../out, which is no file of the tree",
            ],
        )

    def test_a_path_of_no_file_fails(self):
        self.assertEqual(
            self.problems(index="Run ``scripts/gone --help``."),
            ["Documentation/index.rst:4: scripts/gone does not exist"],
        )

    def test_a_document_that_nothing_links_to_fails(self):
        self.assertEqual(
            self.problems(index="Text.", a="`up <index.rst>`_"),
            [f"{FOLDER}/a.rst: no path of links from index.rst leads here"],
        )

    def test_a_warning_of_docutils_fails(self):
        (found,) = self.problems(index="``open")
        self.assertIn("(WARNING/2) Inline literal start-string without end-string", found)
        (found,) = self.problems(index="`Gone`_")
        self.assertIn('Unknown target name: "gone"', found)
