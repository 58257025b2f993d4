# SPDX-License-Identifier: GPL-2.0
"""Writes the initrd of the guest that VMMs migrate; scripts/guest-image runs it."""

import argparse
import os

from vm.initramfs import Initramfs, Modules, module_depends
from vm.programs import files


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser()
    for name in ("modules", "init", "initrd"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--driver", help="an external module, which is loaded last")
    parser.add_argument("--load", action="append", default=[], help="a module of the kernel")
    parser.add_argument("--root", help="the root file system that has the programs")
    parser.add_argument("--program", action="append", default=[], help="a program, with its libraries")
    options = parser.parse_args()

    modules = Modules(options.modules)
    archive = Initramfs(options.initrd + ".new")
    archive.file("init", options.init)
    names = []
    needed = module_depends(options.driver) if options.driver else []
    for name in modules.closure([*needed, *options.load]):
        names.append(f"/lib/modules/{name}.ko")
        archive.data(names[-1], modules.read(name))
    if options.driver:
        names.append(f"/lib/modules/{os.path.basename(options.driver)}")
        archive.file(names[-1], options.driver)
    for path in files(options.root, options.program):
        archive.file(path, options.root + path)
    archive.data("etc/modules", "".join(name + "\n" for name in names).encode())
    archive.finish()
    os.replace(options.initrd + ".new", options.initrd)


if __name__ == "__main__":
    main()
