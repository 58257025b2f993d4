# SPDX-License-Identifier: GPL-2.0
"""The QEMU versions of Debian, and the options of each."""

import os
from dataclasses import dataclass

# Directories that are bound into the root of a QEMU.
BOUND = ["dev", "proc", "sys", "tmp"]


@dataclass(frozen=True)
class Version:
    """A version of QEMU."""

    name: str
    protocol: str
    # The options that make a vfio-pci device migratable.
    options: str

    @property
    def root(self):
        """The root file system of this QEMU, or None if it is in the current one."""
        path = f"/qemu/{self.name}"
        return path if os.path.isdir(path) else None

    def command(self, user=None):
        """Returns the start of the command line, for root or for a user ID."""
        if self.root:
            spec = [] if user is None else [f"--userspec={user}:{user}"]
            return ["chroot", *spec, self.root, "qemu-system-x86_64"]
        spec = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return [*spec, "qemu-system-x86_64"]

    def enter(self):
        """Binds the directories into its root, once."""
        if self.root and not os.path.ismount(f"{self.root}/proc"):
            for name in BOUND:
                os.system(f"mount --rbind /{name} {self.root}/{name}")


# QEMU 8.0 replaced v1 by v2. QEMU does not migrate a device without dirty tracking
# unless an option enables it.
VERSIONS = {
    version.name: version for version in [
        Version("7.2", "v1", "x-enable-migration=on"),
        Version("10", "v2", "enable-migration=on"),
        Version("11", "v2", "enable-migration=on"),
    ]
}
