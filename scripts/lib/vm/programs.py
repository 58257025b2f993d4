# SPDX-License-Identifier: GPL-2.0
"""Programs of a root file system, and the shared libraries that they need."""

import os
import re
import subprocess

# Where Debian has libraries.
FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
DYNAMIC = re.compile(r"\((NEEDED|RUNPATH|RPATH)\)[^\[]*\[([^\]]*)\]")
INTERPRETER = re.compile(r"program interpreter: ([^\]]*)\]")


def needs(path):
    """Returns the interpreter of an ELF file, the names of its libraries, and its own folders."""
    text = subprocess.run(["readelf", "-ld", path], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = DYNAMIC.findall(text)
    names = [value for kind, value in found if kind == "NEEDED"]
    folders = [folder for kind, value in found if kind != "NEEDED" for folder in value.split(":")]
    return INTERPRETER.findall(text), names, folders


def library(root, name, folders):
    """Returns the path of a library in the root."""
    for folder in (*folders, *FOLDERS):
        if os.path.exists(f"{root}{folder}/{name}"):
            return f"{folder}/{name}"
    raise LookupError(f"{root} has no library {name}")


def files(root, programs):
    """Returns the paths of programs and of all that they need, each once."""
    found = []
    wanted = list(programs)
    while wanted:
        path = wanted.pop()
        if path in found:
            continue
        found.append(path)
        interpreters, names, folders = needs(root + path)
        wanted += interpreters
        wanted += [library(root, name, folders) for name in names]
    return found
