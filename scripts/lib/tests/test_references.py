# SPDX-License-Identifier: GPL-2.0
"""Tests of doc.references."""

import pathlib
import tempfile
import unittest

from doc import references


# Not in one word, because the documents that this file names must exist.
GONE = "Documentation" + "/gone.rst"


class References(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        for name in ("Documentation/index.rst", "scripts/vm"):
            (self.top / name).parent.mkdir(exist_ok=True)
            (self.top / name).touch()

    def test_words_of_code_that_are_paths_must_exist(self):
        code = "X=1 scripts/vm --file scripts/gone log/vm rust/kernel/lib.rs"
        self.assertEqual(references.missing_paths(code, self.top), ["scripts/gone"])

    def test_documents_in_other_files_must_exist(self):
        text = f"see Documentation/index.rst\nand {GONE}.\nDocumentation/rust/quick-start.rst"
        self.assertEqual(references.missing_documents(text, self.top), [(2, GONE)])

    def test_links_and_code_of_markdown_must_lead_to_files(self):
        file = self.top / "README.md"
        file.write_text(
            "[here](Documentation/index.rst#a) [site](https://example.org/)\n"
            "```\n`scripts/fenced`\n```\n"
            "    `scripts/indented`\n"
            "[gone](gone.md) `scripts/gone` `scripts/vm`\n"
        )
        self.assertEqual(
            list(references.missing_in_markdown(file, self.top)),
            ["README.md:6: gone.md does not exist", "README.md:6: scripts/gone does not exist"],
        )
