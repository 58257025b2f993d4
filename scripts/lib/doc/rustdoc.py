# SPDX-License-Identifier: GPL-2.0
"""Compiles a crate, and documents it with the same flags. Kbuild calls it instead of rustc.

usage: python3 -m doc.rustdoc OUTPUT RUSTC_ARGUMENT...

Private items are documented too: the pages are for readers of the code. A warning is an
error. A link to srctree/FILE leads to FILE in the kernel's tree, as in the kernel's own
documentation.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

FLAGS = (
    "--document-private-items",
    "-Dwarnings",
    # Private items have pages, so links to them lead somewhere.
    "-Arustdoc::private_intra_doc_links",
)

SRCTREE = re.compile(r'href="srctree/([^"#]+)')


def rustdoc_arguments(arguments):
    """Returns the arguments of rustc without those about its output."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--out-dir", "--emit", "-o"):
            next(words, None)
        elif not word.startswith(("--out-dir=", "--emit=")):
            kept.append(word)
    return kept


def crate_name(arguments):
    """Returns the name of the crate that rustc makes of the arguments."""
    for word, value in zip(arguments, arguments[1:]):
        if word == "--crate-name":
            return value
    (source,) = (word for word in arguments if word.endswith(".rs"))
    return pathlib.Path(source).stem.replace("-", "_")


def link_kernel(html, tree):
    """Returns a page whose srctree/ links lead into a kernel tree, and the files that it lacks."""
    missing = [name for name in SRCTREE.findall(html) if not (tree / name).exists()]
    return SRCTREE.sub(lambda found: f'href="{tree}/{found[1]}', html), missing


def finish(pages, tree):
    """Mends the links of all pages in a folder and returns a message for each problem."""
    problems = []
    for page in sorted(pages.rglob("*.html")):
        html, missing = link_kernel(page.read_text(), tree)
        page.write_text(html)
        problems += [f"{page.relative_to(pages.parent)}: the kernel's tree has no {name}" for name in missing]
    return problems


def main(arguments):
    """Runs the command and returns its exit status."""
    if len(arguments) < 2:
        print(__doc__.strip())
        return 2
    output, *arguments = arguments
    status = subprocess.call(["rustc", *arguments])
    if status:
        return status
    pages = pathlib.Path(output, crate_name(arguments))
    shutil.rmtree(pages, ignore_errors=True)
    status = subprocess.call(["rustdoc", *rustdoc_arguments(arguments), "--out-dir", output, *FLAGS])
    if status:
        return status
    problems = finish(pages, pathlib.Path(os.environ["srctree"]).resolve())
    for message in problems:
        print(f"error: {message}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
