# SPDX-License-Identifier: GPL-2.0
"""Fails if a link of an HTML page leads to a file or an anchor that does not exist.

usage: python3 -m doc.links FOLDER

Checks the pages below FOLDER. Links to other sites and absolute paths are not followed.
"""

import html
import os
import pathlib
import re
import sys
import urllib.parse

from doc import references

# Not checked: rustdoc names a script for each trait and writes it only if the trait has implementors.
SCRIPT = re.compile(r"<script\b.*?</script>", re.S)
TAG = re.compile(r"<[a-zA-Z][^<>]*>")
LINK = re.compile(r'\s(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'\s(?:id|name)="([^"]*)"')

# The lines that a link into a source page marks.
LINES = re.compile(r"(\d+)(?:-(\d+))?")


class Page:
    """The links and the anchors of a page."""

    def __init__(self, text):
        tags = " ".join(TAG.findall(SCRIPT.sub("", text)))
        self.links = sorted({html.unescape(link) for link in LINK.findall(tags)})
        self.anchors = {html.unescape(anchor) for anchor in ANCHOR.findall(tags)}

    def has(self, anchor):
        """Says whether a link to the anchor leads somewhere, as a browser follows it."""
        lines = LINES.fullmatch(anchor)
        if lines:
            return all(line in self.anchors for line in lines.groups() if line)
        return anchor in self.anchors or urllib.parse.unquote(anchor) in self.anchors


def problem(file, link, pages):
    """Returns what is wrong with a link, or None; `pages` has all pages by path."""
    if references.is_external(link) or link.startswith("/"):
        return None
    path, _, anchor = link.partition("#")
    path = urllib.parse.unquote(path.partition("?")[0])
    target = os.path.normpath(os.path.join(os.path.dirname(file), path)) if path else file
    page = pages.get(target)
    if page is None:
        return None if os.path.isfile(target) else f"{path} does not exist"
    if anchor and not page.has(anchor):
        return f"{path or 'the page'} has no anchor {anchor}"
    return None


def problems(folder):
    """Yields a message for each broken link of the pages below a folder."""
    pages = {str(file): Page(file.read_text()) for file in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder} has no pages"
    for file, page in pages.items():
        for link in page.links:
            wrong = problem(file, link, pages)
            if wrong:
                yield f"{os.path.relpath(file, folder)}: broken link {link}: {wrong}"


def main(arguments):
    """Runs the command and returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if arguments in (["-h"], ["--help"]) else 2
    found = list(problems(pathlib.Path(arguments[0]).resolve()))
    for message in found:
        print(f"error: {message}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
