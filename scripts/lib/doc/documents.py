# SPDX-License-Identifier: GPL-2.0
"""Renders Documentation/*.rst as HTML. Fails on a warning and on a reference to nothing.

usage: python3 -m doc.documents OUTPUT

Checks links between documents, links to files, paths in ``literals``, and the names of
documents in all other files of the tree. Each document must be reachable from index.rst.
Of the Markdown files, it checks links and paths.
"""

import os
import pathlib
import shutil
import sys

try:
    from docutils import core, nodes
except ImportError:
    # Only with ROOT=none.
    sys.exit("docutils is missing: apt-get install python3-docutils")

from check import TOP
from doc import references

SETTINGS = {
    "embed_stylesheet": True,
    "halt_level": 5,
    "input_encoding": "utf-8",
    "output_encoding": "utf-8",
    "report_level": 2,
    "stylesheet_path": "minimal.css,responsive.css",
    "syntax_highlight": "none",
}

SKIPPED_FOLDERS = {".git", "target", "__pycache__"}


class Tree:
    """The documents of a checkout, and where their HTML goes."""

    def __init__(self, top, output):
        self.top = top
        self.output = output
        self.folder = top / "Documentation"
        self.problems = []
        # Document → the documents that it links to.
        self.links = {}

    def render(self, file):
        """Writes the HTML of a document."""
        settings = {**SETTINGS, "warning_stream": self}
        document = core.publish_doctree(
            file.read_text(), source_path=str(file.relative_to(self.top)), settings_overrides=settings
        )
        self.links[file] = set()
        for node in document.findall(nodes.reference):
            self.follow(file, node)
        for node in document.findall(nodes.literal):
            for path in references.missing_paths(node.astext(), self.top):
                self.report(file, node, f"{path} does not exist")
        html = core.publish_from_doctree(document, writer_name="html5", settings_overrides=settings)
        (self.output / file.name).with_suffix(".html").write_bytes(html)

    def write(self, message):
        """Takes a message of docutils, as a stream does."""
        if message.strip():
            self.problems.append(message.strip())

    def report(self, file, node, message):
        """Records a problem at a node."""
        while node is not None and node.line is None:
            node = node.parent
        line = f":{node.line}" if node is not None else ""
        self.problems.append(f"{file.relative_to(self.top)}{line}: {message}")

    def follow(self, file, node):
        """Turns a link to a file of the tree into a link to its HTML or its copy."""
        target, separator, anchor = node.get("refuri", "").partition("#")
        if not target or references.is_external(target):
            return
        leads_to = pathlib.Path(os.path.normpath(file.parent / target))
        if not leads_to.is_file() or not leads_to.is_relative_to(self.top):
            self.report(file, node, f"the link leads to {target}, which is no file of the tree")
            return
        if leads_to.parent == self.folder and leads_to.suffix == ".rst":
            self.links[file].add(leads_to)
            node["refuri"] = f"{leads_to.stem}.html{separator}{anchor}"
            return
        # As .txt, so that a browser shows it.
        copy = pathlib.Path("files", f"{leads_to.relative_to(self.top)}.txt")
        (self.output / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(leads_to, self.output / copy)
        node["refuri"] = str(copy)

    def unreachable(self):
        """Returns the documents that no path of links from index.rst leads to."""
        found, queue = set(), [self.folder / "index.rst"]
        while queue:
            file = queue.pop()
            if file not in found:
                found.add(file)
                queue += self.links.get(file, ())
        return sorted(set(self.links) - found)


def sources(top):
    """Yields the text files of the tree that docutils does not read."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in sorted(names):
            file = pathlib.Path(folder, name)
            if file.suffix != ".pyc" and not file.is_symlink():
                yield file


def problems(top, output):
    """Renders the documents of a checkout and returns a message for each problem."""
    tree = Tree(top, output)
    files = sorted(tree.folder.glob("*.rst"))
    if not files:
        return ["Documentation has no .rst files"]
    for file in files:
        tree.render(file)
    tree.problems += [
        f"{file.relative_to(top)}: no path of links from index.rst leads here" for file in tree.unreachable()
    ]
    for file in sources(top):
        for line, name in references.missing_documents(file.read_text(errors="replace"), top):
            tree.problems.append(f"{file.relative_to(top)}:{line}: {name} does not exist")
        if file.suffix == ".md":
            tree.problems += references.missing_in_markdown(file, top)
    return list(dict.fromkeys(tree.problems))


def main(arguments):
    """Runs the command and returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if arguments in (["-h"], ["--help"]) else 2
    output = pathlib.Path(arguments[0])
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    found = problems(TOP, output)
    for message in found:
        print(f"error: {message}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
