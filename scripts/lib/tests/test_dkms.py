# SPDX-License-Identifier: GPL-2.0
"""Tests of dkms/build: what it says of a kernel for which it cannot build the module."""

import os
import shutil
import subprocess
import tempfile
import unittest

SOURCE = os.path.join(os.path.dirname(__file__), "..", "..", "..")
RELEASE = "7.3.4+deb13-amd64"
CONFIG = "CONFIG_RUST=y\nCONFIG_VFIO_MDEV=m\nCONFIG_RUSTC_VERSION=109201\n"

# The installed version of each package.
PACKAGES = {f"linux-headers-{RELEASE}": "7.3.4-1", "linux-source-7.3": "7.3.4-1"}


class Faults(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        os.mkdir(f"{self.folder}/dkms")
        shutil.copy(f"{SOURCE}/dkms/build", f"{self.folder}/dkms/build")
        shutil.copy(f"{SOURCE}/scripts/kernel-tree.sh", f"{self.folder}/dkms/kernel-tree.sh")

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def build(self, config=CONFIG, rustc="echo rustc 1.92.1 '(deb13)'", packages=None):
        """Runs the build, which must fail. Returns what it says."""
        self.write("headers/.config", config)
        self.write("bin/rustc", f"#!/bin/sh\n{rustc}\n")
        versions = "".join(f"*' {name}') echo 'installed {version}' ;;\n"
                           for name, version in (PACKAGES if packages is None else packages).items())
        self.write("bin/dpkg-query", f'#!/bin/sh\ncase " $*" in\n{versions}*) exit 1 ;;\nesac\n')
        done = subprocess.run(
            ["sh", "dkms/build", RELEASE, f"{self.folder}/headers"],
            cwd=self.folder, env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            # Without a terminal to which the build prints as well.
            start_new_session=True, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_a_kernel_without_rust(self):
        text = self.build(config="CONFIG_VFIO_MDEV=m\n")
        self.assertIn(f"{RELEASE} is configured without CONFIG_RUST", text)

    def test_a_kernel_without_mediated_devices(self):
        text = self.build(config="CONFIG_RUST=y\n")
        self.assertIn(f"{RELEASE} is configured without CONFIG_VFIO_MDEV", text)
        self.assertIn("apt install linux-image-amd64", text)

    def test_another_version_of_rustc(self):
        text = self.build(rustc="echo rustc 1.85.0")
        self.assertIn("compiled by rustc 1.92.1, but /usr/bin/rustc is 1.85.0", text)
        self.assertIn("apt install rustc=1.92.1*", text)

    def test_no_rustc(self):
        text = self.build(rustc="exit 127")
        self.assertIn("compiled by rustc 1.92.1, but there is no /usr/bin/rustc", text)
        self.assertIn("apt install rustc=1.92.1*", text)

    def test_headers_that_are_not_a_package(self):
        self.assertIn(f"linux-headers-{RELEASE} is not a package", self.build(packages={}))

    def test_no_source(self):
        text = self.build(packages={f"linux-headers-{RELEASE}": "7.3.4-1"})
        self.assertIn("linux-source-7.3 7.3.4-1 is not installed", text)
        self.assertIn(f"apt install linux-source-7.3=7.3.4-1 && dkms autoinstall -k {RELEASE}", text)

    def test_source_of_another_version(self):
        self.assertIn("linux-source-7.3 7.3.4-1 is not installed",
                      self.build(packages={**PACKAGES, "linux-source-7.3": "7.3.3-1"}))
