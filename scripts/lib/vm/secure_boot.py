# SPDX-License-Identifier: GPL-2.0
"""A machine with Secure Boot: the firmware starts shim, shim starts GRUB, and GRUB starts the kernel.

Each of them checks the signature of the next one. OVMF, shim and GRUB are those of a Debian root.
"""

import os
import shutil

CODE = "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
PROGRAMS = {
    "EFI/BOOT/BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "EFI/BOOT/grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
}
# Where Debian's signed GRUB looks for it.
CONFIGURATION = "EFI/debian/grub.cfg"


def grub_configuration(append):
    """Returns a configuration of GRUB that starts the kernel at once."""
    return f"set timeout=0\nlinux /vmlinuz {append}\ninitrd /initramfs\nboot\n"


def parts(options):
    """Returns the root and the file of UEFI variables that the option --secure-boot names."""
    root, _, variables = options.secure_boot.partition(":")
    return root, variables


def prepare(options, directory, append):
    """Writes the system partition and the variables of a machine to its directory."""
    root, variables = parts(options)
    partition = os.path.join(directory, "esp")
    copies = {name: os.path.join(root, source) for name, source in PROGRAMS.items()}
    copies["vmlinuz"] = options.kernel
    copies["initramfs"] = os.path.join(directory, "initramfs")
    for name, source in copies.items():
        path = os.path.join(partition, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copyfile(source, path)
    path = os.path.join(partition, CONFIGURATION)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(grub_configuration(append))
    # The firmware writes to its variables.
    shutil.copyfile(variables, os.path.join(directory, "variables"))


def words(options, directory):
    """Returns the words of QEMU's command line. QEMU presents a directory as a FAT file system."""
    root, _ = parts(options)
    return [
        "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-global", "ICH9-LPC.disable_s3=1",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={os.path.join(root, CODE)}",
        "-drive", f"if=pflash,format=raw,unit=1,file={directory}/variables",
        "-drive", f"if=none,id=esp,format=raw,readonly=on,file=fat:{directory}/esp",
        "-device", "virtio-blk-pci,drive=esp,bootindex=0",
    ]
