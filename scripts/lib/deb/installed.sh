#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in a virtual machine: uses the packages that are installed in /target, as root of a
# Debian machine would, and prints the results as KTAP.

set -u
uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
. /check/ktap.sh

enter_target
echo "KTAP version 1"
echo "1..17"
check modprobe in_target modprobe mdma
check mdevctl_types prints mdma-16M in_target mdevctl types
check mdevctl_types_describe prints "Device API: vfio-pci" in_target mdevctl types
check mdevctl_define in_target mdevctl define --uuid $uuid --parent mdma --type mdma-16M
check mdevctl_attribute in_target mdevctl modify --uuid $uuid --addattr keep_state --value 1
check mdevctl_autostart in_target mdevctl modify --uuid $uuid --auto
check mdevctl_start in_target mdevctl start --uuid $uuid
check mdevctl_list prints $uuid in_target mdevctl list
check the_attribute_is_set prints 1 cat /sys/bus/mdev/devices/$uuid/keep_state
check vfio_migrate_list prints $uuid in_target vfio-migrate list
check vfio_migrate_save in_target vfio-migrate save $uuid /tmp/state
check vfio_migrate_inspect in_target vfio-migrate inspect /tmp/state
check vfio_migrate_load in_target vfio-migrate load $uuid /tmp/state
check modprobe_keeps_a_module_in_use refuses in_target sh -c \
	'exec 3</sys/kernel/debug/mdma/'$uuid'/migration; modprobe -r mdma'
check mdevctl_stop in_target mdevctl stop --uuid $uuid
# What udev does when the parent appears, after a reboot.
check mdevctl_starts_it_with_its_parent prints $uuid in_target sh -c \
	'mdevctl start-parent-mdevs mdma && mdevctl list'
check unload in_target modprobe -r mdma
report
