# SPDX-License-Identifier: GPL-2.0
"""Tests of doc.rustdoc and doc.crates."""

import pathlib
import tempfile
import unittest

from doc import crates, rustdoc

RUSTC = "--edition=2021 --crate-name vfio --emit=metadata=a.rmeta --cfg MODULE --out-dir o --emit=obj=lib.o vfio/lib.rs"


class Arguments(unittest.TestCase):
    def test_arguments_about_output_are_left_out(self):
        self.assertEqual(
            rustdoc.rustdoc_arguments(RUSTC.split()),
            "--edition=2021 --crate-name vfio --cfg MODULE vfio/lib.rs".split(),
        )

    def test_name_of_the_crate(self):
        self.assertEqual(rustdoc.crate_name(RUSTC.split()), "vfio")
        self.assertEqual(rustdoc.crate_name(["--cfg", "MODULE", "samples/my-device.rs"]), "my_device")


class Pages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_links_into_the_kernel(self):
        (self.folder / "vfio.h").touch()
        pages = self.folder / "doc" / "vfio"
        pages.mkdir(parents=True)
        (pages / "index.html").write_text('<a href="srctree/vfio.h">a</a> <a href="srctree/gone.h">b</a>')
        self.assertEqual(
            rustdoc.finish(pages, self.folder), ["vfio/index.html: the kernel's tree has no gone.h"]
        )
        self.assertIn(f'href="{self.folder}/vfio.h"', (pages / "index.html").read_text())

    def test_list_of_crates(self):
        for part, name in (("kernel", "vfio"), ("kernel", "src"), ("userspace", "demo")):
            page = self.folder / part / name / "index.html"
            page.parent.mkdir(parents=True)
            page.write_text(f'<meta name="description" content="The &quot;{name}&quot; of `T&lt;U&gt;`.">')
        self.assertEqual(crates.described(self.folder / "kernel"), {"vfio": 'The "vfio" of `T<U>`.'})
        self.assertEqual(crates.main([str(self.folder)]), 0)
        self.assertIn('href="kernel/vfio/index.html"', (self.folder / "index.html").read_text())
        self.assertIn("of <code>T&lt;U&gt;</code>.", (self.folder / "index.html").read_text())
        self.assertIn('href="demo/index.html"', (self.folder / "userspace" / "index.html").read_text())
