# SPDX-License-Identifier: GPL-2.0
"""Fails if files of a crate or of a Python package import each other in a circle.

usage: python3 -m check.imports [--graph] [FOLDER]...

An import is a `use`, or a qualified path in code. It leads to the file of the
module that the path names. So a module that re-exports an item of a child
imports the child, and a child that uses the item through its parent imports the
parent. `mod child;` alone is no import.

FOLDER limits the check, for instance to rust/vfio. --graph prints each import.
"""

import pathlib
import sys

from check import TOP, graph, python, rust, shown

FOLDERS = ("rust", "samples", "tools", "scripts")


def graphs(folders):
    """Returns the graph of imports of each crate, and one of all Python."""
    return [*map(rust.edges, rust.crates(folders)), python.edges(folders)]


def named(edges):
    """Returns a graph of files as a graph of their names."""
    return {shown(file): set(map(shown, targets)) for file, targets in edges.items()}


def problems(found):
    """Returns a message for each circle in the graphs."""
    # Test programs share modules, so several crates can have the same circle.
    messages = {frozenset(knot): describe(edges, knot) for edges in found for knot in graph.knots(edges)}
    return list(messages.values())


def describe(edges, knot):
    """Returns the message about a circle."""
    path = "\n".join(f"  {file}" for file in graph.circle(edges, knot))
    rest = " ".join(sorted(knot))
    return f"{len(knot)} files import each other; the shortest circle:\n{path}\n  all: {rest}"


def main(arguments):
    """Runs the command and returns its exit status."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__.strip())
        return 0
    show = "--graph" in arguments
    folders = [pathlib.Path(name).resolve() for name in arguments if name != "--graph"]
    folders = folders or [TOP / name for name in FOLDERS]
    for folder in folders:
        if not folder.is_dir():
            print(f"no such folder: {folder}", file=sys.stderr)
            return 2

    found = [named(edges) for edges in graphs(folders)]
    if show:
        for edges in found:
            for file in sorted(edges):
                for target in sorted(edges[file]):
                    print(f"{file} -> {target}")
    messages = problems(found)
    for message in messages:
        print(message, file=sys.stderr)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
