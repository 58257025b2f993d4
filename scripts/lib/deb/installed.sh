#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in a virtual machine: uses the packages that are installed in /target, as root of a
# Debian machine would, and prints the results as KTAP. /out keeps the definitions of
# mdevctl for rebooted.sh. The modules in /lib/modules/extra are another build.

set -u
uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
disk=83b8f4f2-509f-382f-3c1e-e6bfe0fa1002
serial=83b8f4f2-509f-382f-3c1e-e6bfe0fa1003
. /check/ktap.sh

# attribute UUID NAME - prints an attribute of an instance.
attribute()
{
	cat "/sys/bus/mdev/devices/$1/$2"
}

# abi - succeeds if each type has the attributes of the kernel's ABI document, and its name
# only characters that tools do not stumble on.
abi()
{
	for _type in /sys/class/mdev_bus/*/mdev_supported_types/*; do
		for _file in create devices available_instances device_api name description; do
			[ -e "$_type/$_file" ] || { echo "no $_type/$_file"; return 1; }
		done
		grep -x 'vfio-pci' "$_type/device_api" && grep -xE '[0-9]+' "$_type/available_instances" &&
			grep -xE '[A-Za-z0-9 -]+' "$_type/name" && basename "$_type" | grep -xE '[A-Za-z0-9-]+' ||
			return 1
	done
}

# bad_value - succeeds if an instance does not start when an attribute refuses its value.
bad_value()
{
	in_target mdevctl define --uuid $serial --parent mserial --type mserial-1 &&
		in_target mdevctl modify --uuid $serial --addattr migration_abi --value nonsense &&
		refuses in_target mdevctl start --uuid $serial && [ ! -e /sys/bus/mdev/devices/$serial ] &&
		in_target mdevctl modify --uuid $serial --delattr && in_target mdevctl start --uuid $serial &&
		in_target mdevctl stop --uuid $serial && in_target mdevctl undefine --uuid $serial
}

# too_late - succeeds if the migration interface of a used instance cannot be changed.
too_late()
{
	refuses sh -c "echo 2018 >/sys/bus/mdev/devices/$uuid/migration_abi"
}

# as_nobody COMMAND... - runs a command as a user without rights.
as_nobody()
{
	in_target setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all "$@"
}

# only_root - succeeds if another user can neither open the device nor create, change or remove
# an instance, and still see its attributes.
only_root()
{
	_instance=/sys/bus/mdev/devices/$uuid
	_node=/dev/vfio/$(basename "$(readlink "$_instance/iommu_group")")
	[ "$(stat -c '%u %a' "$_node")" = "0 600" ] && refuses as_nobody sh -c "exec 3<>$_node" || return 1
	for _file in $_instance/remove $_instance/mdev_type/create $_instance/driver/unbind; do
		refuses as_nobody sh -c "echo 1 >$_file" || return 1
	done
	for _name in keep_state migration_abi data_section_kib payload_checksums throttle_us; do
		as_nobody cat "$_instance/$_name" && refuses as_nobody sh -c "echo 1 >$_instance/$_name" || return 1
	done
	refuses as_nobody ls /sys/kernel/debug/mdma
}

# as_other_root COMMAND... - runs a command as root of a user namespace, which belongs to a user
# without rights. The kernel makes none in a chroot, so this runs Debian's programs outside.
as_other_root()
{
	set -- /target/usr/bin/unshare --user --map-root-user "$@"
	set -- "$loader" --library-path "$libraries" "$@"
	set -- /target/usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all "$@"
	"$loader" --library-path "$libraries" "$@"
}

# namespace - succeeds if root of a user namespace cannot change or remove an instance.
namespace()
{
	loader=/target/lib64/ld-linux-x86-64.so.2
	libraries=/target/usr/lib/x86_64-linux-gnu
	_instance=/sys/bus/mdev/devices/$uuid
	[ "$(as_other_root id -u)" = 0 ] || return 1
	for _file in "$_instance/keep_state" "$_instance/remove"; do
		refuses as_other_root sh -c "echo 1 >$_file" || return 1
	done
	[ -e "$_instance" ]
}

# own_rights - succeeds if no file of the packages runs with another user's rights, or can be
# written by another user than root.
own_rights()
{
	in_target sh -c 'dpkg -L vfio-mdev-rs-dkms vfio-mdev-rs-tools >/tmp/files' || return 1
	grep -q /usr/bin/vfio-migrate /target/tmp/files || return 1
	while read -r _file; do
		# Neither setuid nor setgid, nor writable for the group or others.
		[ -z "$(find "/target$_file" -maxdepth 0 ! -type l \( ! -user 0 -o -perm /6022 \))" ] || {
			ls -ld "/target$_file"
			return 1
		}
	done </target/tmp/files
}

# manual - succeeds if an instance that is started by hand does not start with its parent.
manual()
{
	in_target mdevctl modify --uuid $uuid --manual && in_target mdevctl stop --uuid $uuid &&
		in_target mdevctl start-parent-mdevs mdma && [ ! -e /sys/bus/mdev/devices/$uuid ]
}

# with_parent - does what udev does when the parent appears.
with_parent()
{
	in_target mdevctl modify --uuid $uuid --auto && in_target mdevctl start-parent-mdevs mdma &&
		prints $uuid in_target mdevctl list
}

# three_devices - starts one more of each other device, and loads an image into the disk.
three_devices()
{
	in_target mdevctl start --uuid $disk --parent mnvme --type mnvme-64M &&
		in_target mdevctl start --uuid $serial --parent mserial --type mserial-1 &&
		echo 1 >/sys/bus/mdev/devices/$serial/keep_state &&
		dd if=/dev/urandom of=/tmp/image bs=1M count=8 && mnvme-disk load $disk /tmp/image
}

# replace - unloads the modules of the package, and loads those of another build.
replace()
{
	# This also unloads modules of the kernel that nothing else uses.
	_depends=$(in_target modinfo -F depends mdma | tr , ' ')
	in_target modprobe -r mdma mserial mnvme || return 1
	# shellcheck disable=SC2086
	in_target modprobe -a vfio_iommu_type1 $_depends || return 1
	for _module in mdma mserial mnvme; do
		[ ! -e /sys/module/$_module ] && insmod /lib/modules/extra/$_module.ko || return 1
	done
	[ -z "$(ls /sys/bus/mdev/devices)" ]
}

# all_are_back - succeeds if the three instances exist, as they were.
all_are_back()
{
	in_target mdevctl list
	for _instance in $uuid $disk $serial; do
		[ "$(attribute "$_instance" keep_state)" = 1 ] || return 1
	done
	[ "$(basename "$(readlink /sys/bus/mdev/devices/$disk/mdev_type)")" = mnvme-64M ]
}

# same_image - succeeds if the disk has what was loaded.
same_image()
{
	mnvme-disk store $disk /tmp/back && head -c 8388608 /tmp/back | cmp - /tmp/image
}

enter_target
rm -rf /out/*
mount --bind /out /target/etc/mdevctl.d
mkdir -p /target/etc/mdevctl.d/scripts.d/callouts /target/etc/mdevctl.d/scripts.d/notifiers

echo "KTAP version 1"
echo "1..37"
check modprobe in_target modprobe -a mdma mserial mnvme
check types_are_as_the_kernel_documents abi
check mdevctl_types prints mdma-16M in_target mdevctl types
check mdevctl_types_describe prints "Device API: vfio-pci" in_target mdevctl types
check mdevctl_define in_target mdevctl define --uuid $uuid --parent mdma --type mdma-16M
check mdevctl_attribute in_target mdevctl modify --uuid $uuid --addattr keep_state --value 1
check mdevctl_second_attribute in_target mdevctl modify --uuid $uuid --addattr payload_checksums --value 0
check mdevctl_attribute_with_a_size in_target mdevctl modify --uuid $uuid --addattr data_section_kib --value 64
check mdevctl_attribute_of_the_driver in_target mdevctl modify --uuid $uuid --addattr throttle_us --value 7
check mdevctl_last_attribute in_target mdevctl modify --uuid $uuid --addattr migration_abi --value v7
check mdevctl_removes_an_attribute in_target mdevctl modify --uuid $uuid --delattr
check mdevctl_autostart in_target mdevctl modify --uuid $uuid --auto
check mdevctl_start in_target mdevctl start --uuid $uuid
check mdevctl_list prints $uuid in_target mdevctl list
check the_attribute_is_set prints 1 attribute $uuid keep_state
check the_second_attribute_is_set prints 0 attribute $uuid payload_checksums
check the_size_is_set prints 64 attribute $uuid data_section_kib
check the_attribute_of_the_driver_is_set prints 7 attribute $uuid throttle_us
check the_removed_attribute_is_not prints v1 attribute $uuid migration_abi
check mdevctl_refuses_a_bad_value bad_value
check only_root_uses_the_device only_root
check root_of_a_user_namespace_is_another_user namespace
check the_packages_give_no_rights own_rights
check vfio_migrate_list prints $uuid in_target vfio-migrate list
check vfio_migrate_save in_target vfio-migrate save $uuid /tmp/state
check vfio_migrate_inspect in_target vfio-migrate inspect /tmp/state
check vfio_migrate_load in_target vfio-migrate load $uuid /tmp/state
check an_attribute_for_the_first_use_comes_too_late too_late
check modprobe_keeps_a_module_in_use refuses in_target sh -c \
	'exec 3</sys/kernel/debug/mdma/'$uuid'/migration; modprobe -r mdma'
check mdevctl_manual manual
check mdevctl_starts_it_with_its_parent with_parent
# An upgrade of the package: another build of the modules takes over all devices.
check three_devices_have_a_state three_devices
check save_all in_target vfio-migrate save-all /tmp/all
check the_modules_are_replaced replace
check load_all in_target vfio-migrate load-all /tmp/all
check all_devices_are_back all_are_back
check the_disk_has_its_contents same_image
report
