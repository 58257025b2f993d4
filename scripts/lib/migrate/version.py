# SPDX-License-Identifier: GPL-2.0
"""The QEMUs, as Debian ships them, and what each has to be told."""

import os
from dataclasses import dataclass

# What is visible inside the root of a QEMU, too.
BOUND = ["dev", "proc", "sys", "tmp"]


@dataclass(frozen=True)
class Version:
    """A release of QEMU."""

    name: str
    protocol: str
    # The options of a vfio-pci device that let it migrate.
    options: str

    @property
    def root(self):
        """Its own root file system, if it is not in the one that this runs in."""
        path = f"/qemu/{self.name}"
        return path if os.path.isdir(path) else None

    def command(self, user=None):
        """How its QEMU is started, by root or by the `user` of this number."""
        if self.root:
            spec = [] if user is None else [f"--userspec={user}:{user}"]
            return ["chroot", *spec, self.root, "qemu-system-x86_64"]
        spec = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return [*spec, "qemu-system-x86_64"]

    def enter(self):
        """Makes its root ready, once."""
        if self.root and not os.path.ismount(f"{self.root}/proc"):
            for name in BOUND:
                os.system(f"mount --rbind /{name} {self.root}/{name}")


# QEMU dropped the region protocol in 8.0 and speaks the other one since. It refuses
# to let a device without dirty tracking of its own migrate unless told to.
VERSIONS = {
    version.name: version for version in [
        Version("7.2", "v1", "x-enable-migration=on"),
        Version("10", "v2", "enable-migration=on"),
        Version("11", "v2", "enable-migration=on"),
    ]
}
