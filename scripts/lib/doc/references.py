# SPDX-License-Identifier: GPL-2.0
"""References from text to files of the tree."""

import re

# A word that starts with one of these is a path in the tree.
FOLDERS = ("Documentation", "rust", "samples", "scripts", "tools")

# Paths of the kernel's own tree.
KERNEL_FOLDERS = ("rust/kernel/",)

PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")

# A document that a comment, a script or another document names.
DOCUMENT = re.compile(r"(?<![\w/])Documentation/[\w-]+\.rst\b")

FENCED = re.compile(r"^```.*?^```|^    .*?$", re.M | re.S)
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")
MARKDOWN_CODE = re.compile(r"`([^`\n]+)`")


def is_external(target):
    """Says whether a link has a scheme, such as https."""
    return re.match(r"[a-z][a-z0-9+.-]*:", target) is not None


def missing_paths(text, top):
    """Returns the words of a piece of code that are paths of files which `top` lacks."""
    return [
        word
        for word in text.split()
        if PATH.fullmatch(word) and not word.startswith(KERNEL_FOLDERS) and not (top / word).exists()
    ]


def missing_documents(text, top):
    """Returns (line, name) of each document that a text names and that `top` lacks."""
    return [
        (line, found)
        for line, words in enumerate(text.splitlines(), 1)
        for found in DOCUMENT.findall(words)
        if not (top / found).exists()
    ]


def missing_in_markdown(file, top):
    """Yields a message for each reference of a Markdown file to a file that does not exist."""
    text = FENCED.sub(lambda found: "\n" * found.group().count("\n"), file.read_text())
    for line, words in enumerate(text.splitlines(), 1):
        targets = [target.partition("#")[0] for target in MARKDOWN_LINK.findall(words) if not is_external(target)]
        names = [target for target in targets if target and not (file.parent / target).exists()]
        for code in MARKDOWN_CODE.findall(words):
            names += missing_paths(code, top)
        for name in names:
            yield f"{file.relative_to(top)}:{line}: {name} does not exist"
