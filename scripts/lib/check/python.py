# SPDX-License-Identifier: GPL-2.0
"""Imports between the Python files of this tree."""

import ast


def modules(folders):
    """Returns file → dotted name, counted from the outermost folder of the package."""
    found = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            parts = [] if file.name == "__init__.py" else [file.stem]
            parent = file.parent
            while (parent / "__init__.py").is_file():
                parts.insert(0, parent.name)
                parent = parent.parent
            found[file] = (parent, ".".join(parts))
    return found


def imported(tree, package):
    """Yields the dotted names that a module imports, the longest possible first."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def edges(folders):
    """Returns the imports between the Python files of the folders: file → set of files."""
    names = modules(folders)
    files = {key: file for file, key in names.items()}
    graph = {file: set() for file in names}
    for file, (root, name) in names.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for dotted in imported(ast.parse(file.read_text(), str(file)), package):
            # `from a.b import c` imports the module a.b.c, or a name of the module a.b.
            target = files.get((root, dotted)) or files.get((root, dotted.rpartition(".")[0]))
            if target and target != file:
                graph[file].add(target)
    return graph
