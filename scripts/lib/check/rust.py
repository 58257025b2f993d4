# SPDX-License-Identifier: GPL-2.0
"""Rust source as far as the checks need it: tokens, modules and paths."""

import functools
import pathlib
import re
from dataclasses import dataclass, field

# Alternatives are tried in order: comments and literals hide what is in them.
TOKEN = re.compile(
    r"""
      (?P<skip>\s+|//[^\n]*)
    | (?P<comment>/\*)
    | (?P<raw>(?:b|c|br|cr|r)?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes))
    | (?P<string>[bc]?"(?:\\(?s:.)|[^"\\])*")
    | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])')
    | (?P<lifetime>'[A-Za-z_]\w*)
    | (?P<ident>(?:r\#)?[A-Za-z_]\w*)
    | (?P<colons>::)
    | (?P<other>.)
    """,
    re.X,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Token:
    """One token; a literal keeps its quotes."""

    text: str
    line: int
    kind: str


def tokens(text):
    """Returns the tokens of a Rust source text, without comments."""
    found, position, line = [], 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        kind, end = match.lastgroup, match.end()
        if match.group("raw"):
            kind = "string"
        elif match.group("comment"):
            end = comment_end(text, position)
        if kind not in ("skip", "comment"):
            found.append(Token(match.group().removeprefix("r#"), line, kind))
        line += text.count("\n", position, end)
        position = end
    return found


@functools.cache
def file_tokens(file):
    """Returns the tokens of a file."""
    return tokens(file.read_text())


def comment_end(text, position):
    """Returns where the block comment that begins at `position` ends; comments nest."""
    depth = 0
    for edge in COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


@dataclass
class Module:
    """A module of a crate: a file, or a `mod name { … }` inside one."""

    file: pathlib.Path
    parent: "Module | None"
    children: dict = field(default_factory=dict)
    # Name in this module → the path that a `use` gives it.
    names: dict = field(default_factory=dict)
    # The macros that the module exports; their paths begin at the crate's root.
    macros: set = field(default_factory=set)
    # Every path that the module's own code mentions.
    paths: list = field(default_factory=list)

    def root(self):
        """Returns the module of the crate's root."""
        return self if self.parent is None else self.parent.root()

    def walk(self):
        """Yields this module and all modules below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def child_file(file, name, attribute):
    """Returns the file of `mod name;` in `file`, or None if there is none."""
    if attribute:
        candidates = [file.parent / attribute]
    else:
        # A crate's root may have any name, so both places are tried.
        folders = [file.parent / file.stem, file.parent]
        if file.name in ("mod.rs", "lib.rs", "main.rs"):
            folders = [file.parent]
        candidates = [path for f in folders for path in (f / f"{name}.rs", f / name / "mod.rs")]
    return next((path.resolve() for path in candidates if path.is_file()), None)


class Parser:
    """Reads one file into the tree of modules."""

    def __init__(self, file, parent):
        self.tokens = file_tokens(file)
        self.at = 0
        self.module = Module(file, parent)

    def text(self, ahead=0):
        """Returns the text of a token, or "" at the end."""
        index = self.at + ahead
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def kind(self, ahead=0):
        """Returns the kind of a token, or "" at the end."""
        index = self.at + ahead
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else ""

    def parse(self):
        """Returns the module of the file."""
        self.block(self.module)
        return self.module

    def block(self, module):
        """Reads items up to the brace that closes the module, or to the end."""
        depth, path_attribute, exported = 0, None, False
        while self.at < len(self.tokens):
            text = self.text()
            if text == "path" and self.text(-1) == "[" and self.text(1) == "=":
                path_attribute = self.text(2).strip('"')
                self.at += 3
            elif text == "macro_export" and self.text(-1) == "[":
                exported = True
                self.at += 1
            elif text == "macro_rules" and self.text(1) == "!":
                if exported:
                    module.macros.add(self.text(2))
                exported = False
                self.at += 3
            elif text == "mod" and self.kind(1) == "ident" and self.text(2) in (";", "{"):
                name, inline = self.text(1), self.text(2) == "{"
                self.at += 3
                self.declare(module, name, inline, path_attribute)
                path_attribute = None
            elif text == "use" and self.text(1) != "<":
                self.at += 1
                self.use(module, [])
            elif text == "pub" and self.text(1) == "(":
                while self.text() != ")":
                    self.at += 1
            elif self.kind() == "ident":
                self.path(module)
            else:
                depth += {"{": 1, "}": -1}.get(text, 0)
                self.at += 1
                if depth < 0:
                    return

    def declare(self, module, name, inline, path_attribute):
        """Adds a child module."""
        if inline:
            child = module.children.setdefault(name, Module(module.file, module))
            self.block(child)
            return
        file = child_file(module.file, name, path_attribute)
        if file:
            module.children[name] = Parser(file, module).parse()

    def use(self, module, prefix):
        """Reads the tree of a `use` into names and paths."""
        path = list(prefix)
        while self.at < len(self.tokens):
            text = self.text()
            self.at += 1
            if text == "{":
                while self.text() not in ("}", ""):
                    self.use(module, path)
                    if self.text() == ",":
                        self.at += 1
                self.at += 1
                return
            if text == "::":
                if not path:
                    path.append("::")
                continue
            if text == "self" and path:
                name = path[-1]
            else:
                path.append(text)
                name = text
            if self.text() == "as":
                name = self.text(1)
                self.at += 2
            if self.text() != "::":
                module.paths.append(path)
                if name != "*":
                    module.names[name] = path
                return

    def path(self, module):
        """Reads a path in code, `a::b::c`."""
        qualified = self.text(-1) == "::"
        path = [self.text()]
        self.at += 1
        while self.text() == "::" and self.kind(1) == "ident":
            path.append(self.text(1))
            self.at += 2
        if len(path) > 1 and not qualified:
            module.paths.append(path)


def resolve(module, path, seen=()):
    """Returns the module that a path leads to, or None if it leaves the crate.

    An item belongs to the module that the path names, even if that module only
    re-exports it.
    """
    head, rest = path[0], path[1:]
    if head == "crate":
        here = module.root()
    elif head == "self":
        here = module
    elif head == "super":
        here = module.parent
    elif head in module.children:
        here = module.children[head]
    elif head in module.names and head not in seen:
        target = module.names[head]
        return resolve(module, target + rest, (*seen, head)) if target[0] != head else None
    else:
        return None
    for name in rest:
        if here is None:
            return None
        if name == "super":
            here = here.parent
        elif name in here.children:
            here = here.children[name]
        elif here.parent is None:
            return exporter(here, name) or here
        else:
            break
    return here


def exporter(root, name):
    """Returns the module that exports a macro, or None if none does."""
    return next((module for module in root.walk() if name in module.macros), None)


def crates(folders):
    """Returns the root module of each crate: of each file that no other declares."""
    files = {
        file.resolve()
        for folder in folders
        for file in folder.rglob("*.rs")
        if "target" not in file.parts
    }
    parsed = {file: Parser(file, None).parse() for file in sorted(files)}
    declared = {
        inner.file for file, module in parsed.items() for inner in module.walk() if inner.file != file
    }
    return [module for file, module in parsed.items() if file not in declared]


def edges(root):
    """Returns the imports between the files of a crate: file → set of files."""
    graph = {module.file: set() for module in root.walk()}
    for module in root.walk():
        for path in module.paths:
            target = resolve(module, path)
            if target and target.file != module.file:
                graph[module.file].add(target.file)
    return graph
