# SPDX-License-Identifier: GPL-2.0
"""Writes the initrd of the guest that VMMs migrate; scripts/guest-image runs it."""

import argparse
import os

from vm.initramfs import Initramfs, Modules, module_depends


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser()
    for name in ("modules", "driver", "init", "initrd"):
        parser.add_argument("--" + name, required=True)
    options = parser.parse_args()

    modules = Modules(options.modules)
    archive = Initramfs(options.initrd + ".new")
    archive.file("init", options.init)
    names = []
    for name in modules.closure(module_depends(options.driver)):
        names.append(f"/lib/modules/{name}.ko")
        archive.data(names[-1], modules.read(name))
    names.append("/lib/modules/uio_mdma.ko")
    archive.file(names[-1], options.driver)
    archive.data("etc/modules", "".join(name + "\n" for name in names).encode())
    archive.finish()
    os.replace(options.initrd + ".new", options.initrd)


if __name__ == "__main__":
    main()
