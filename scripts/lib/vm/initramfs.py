# SPDX-License-Identifier: GPL-2.0
"""The initramfs of a virtual machine, and the kernel modules for it."""

import lzma
import os
import re
import stat
import subprocess


class Initramfs:
    """A cpio archive in the `newc` format."""

    def __init__(self, path):
        self.out = open(path, "wb")
        self.seen = set()
        self.ino = 0
        for name in ("dev", "proc", "sys", "etc", "bin", "lib"):
            self.directory(name)
        # The kernel opens the console before init mounts /dev.
        self.entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
        self.entry("dev/null", stat.S_IFCHR | 0o666, b"", (1, 3))

    def entry(self, name, mode, data=b"", rdev=(0, 0), links=1):
        """Writes an entry."""
        self.ino += 1
        encoded = name.encode() + b"\0"
        fields = (self.ino, mode, 0, 0, links, 0, len(data), 0, 0, *rdev, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self.out.write(head + b"\0" * (-len(head) % 4))
        self.out.write(data)
        self.out.write(b"\0" * (-len(data) % 4))

    def directory(self, name):
        """Adds a directory and its parents, once."""
        if not name or name in self.seen:
            return
        self.directory(os.path.dirname(name))
        self.seen.add(name)
        self.entry(name, stat.S_IFDIR | 0o755, links=2)

    def data(self, name, data, mode=0o644):
        """Adds a file with this content, once."""
        name = name.lstrip("/")
        if name in self.seen:
            return
        self.directory(os.path.dirname(name))
        self.seen.add(name)
        self.entry(name, stat.S_IFREG | mode, data)

    def file(self, name, source):
        """Adds a file with its mode, or a directory with its contents."""
        if os.path.isdir(source):
            for inside in sorted(os.listdir(source)):
                self.file(os.path.join(name, inside), os.path.join(source, inside))
            return
        with open(source, "rb") as opened:
            self.data(name, opened.read(), stat.S_IMODE(os.stat(source).st_mode))

    def finish(self):
        """Ends the archive."""
        self.entry("TRAILER!!!", 0)
        self.out.close()


def normal(name):
    """Returns the kernel's name of a module."""
    return os.path.basename(name).split(".ko")[0].replace("-", "_")


class Modules:
    """The modules of a kernel, /lib/modules/RELEASE, and their dependencies."""

    def __init__(self, directory):
        self.directory = directory
        self.release = os.path.basename(os.path.normpath(directory))
        self.depends = {}
        self.paths = {}
        self.builtin = set()
        if not os.path.exists(os.path.join(directory, "modules.dep")):
            subprocess.run(
                ["depmod", "-b", os.path.normpath(os.path.join(directory, "../../..")), self.release],
                check=True)
        with open(os.path.join(directory, "modules.dep"), encoding="utf-8") as lines:
            for line in lines:
                path, _, needed = line.partition(":")
                self.paths[normal(path)] = path
                self.depends[normal(path)] = [normal(name) for name in needed.split()]
        with open(os.path.join(directory, "modules.builtin"), encoding="utf-8") as lines:
            self.builtin = {normal(line.strip()) for line in lines}

    def closure(self, names):
        """Returns `names` and their dependencies in the order of insertion."""
        order = []
        for name in map(normal, names):
            if name in self.builtin:
                continue
            if name not in self.paths:
                raise LookupError(f"the kernel {self.release} has no module {name}")
            # modules.dep names the nearest dependency first.
            for needed in [*reversed(self.depends[name]), name]:
                if needed not in order:
                    order.append(needed)
        return order

    def read(self, name):
        """Returns the content of a module, uncompressed."""
        path = os.path.join(self.directory, self.paths[name])
        with open(path, "rb") as opened:
            data = opened.read()
        if path.endswith(".xz"):
            return lzma.decompress(data)
        if path.endswith(".zst"):
            return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
        return data


def module_depends(ko):
    """Returns the modules that an external module depends on."""
    with open(ko, "rb") as opened:
        data = opened.read()
    depends = re.search(rb"\0depends=([^\0]*)\0", data)
    return [name for name in depends.group(1).decode().split(",") if name] if depends else []
