# SPDX-License-Identifier: GPL-2.0
"""Fails on `unsafe` in Rust code outside the folders and files that may have it.

usage: python3 -m check.unsafe
"""

import sys

from check import TOP, rust, shown

FOLDERS = ("rust", "samples", "tools")

# The crates whose job is to wrap the kernel's C interfaces.
ALLOWED_FOLDERS = ("rust/bindings/", "rust/kernel_ext/", "rust/vfio/", "rust/migratable/")

# The client library's system calls, and its access to memory that others change.
ALLOWED_FILES = frozenset(
    f"tools/lib/vfio-client/src/{name}.rs"
    for name in ("container", "kcov", "kvm", "mapping", "mapping_io", "node", "sys", "userfault")
) | {
    # What vfio-ioctls leaves to its users. In vfio-client, vm-memory would be a dependency of all programs.
    "tools/rust-vmm/src/ram.rs",
}


def lines(text):
    """Returns the numbers of the lines whose code has the keyword."""
    return sorted({token.line for token in rust.tokens(text) if token.text == "unsafe"})


def problems(sources):
    """Yields a message for each problem; `sources` is path → text."""
    needed = set()
    for name, text in sources.items():
        found = lines(text)
        if name in ALLOWED_FILES:
            needed.update({name} if found else ())
        elif not name.startswith(ALLOWED_FOLDERS):
            yield from (f"{name}:{line}: unsafe code is not allowed in this file" for line in found)
    for name in sorted(ALLOWED_FILES - needed):
        yield f"{name}: has no unsafe code any more: remove it from ALLOWED_FILES in check/unsafe.py"


def main():
    """Runs the command and returns its exit status."""
    sources = {
        shown(file): file.read_text()
        for folder in FOLDERS
        for file in sorted((TOP / folder).rglob("*.rs"))
        if "target" not in file.parts
    }
    found = list(problems(sources))
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
