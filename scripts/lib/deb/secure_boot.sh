#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage: secure_boot.sh enrolled|unknown
#
# Runs in a virtual machine with Secure Boot, whose shim knows the key of DKMS or does not:
# loads modules from /target and others, and prints the results as KTAP.

set -u
uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
key=$1
. /check/ktap.sh

# log_says TEXT - succeeds if the kernel's log has the text.
log_says()
{
	prints "$1" dmesg
}

# is_refused REASON KO - succeeds if the kernel refuses a module and logs this reason.
is_refused()
{
	dmesg -c >/dev/null
	refuses insmod "$2" && log_says "Loading of $1 is rejected"
}

# works - creates an instance, reads its file in debugfs, and saves and loads its state.
works()
{
	in_target mdevctl start --uuid $uuid --parent mdma --type mdma-16M &&
		grep state: /sys/kernel/debug/mdma/$uuid/migration &&
		echo 1 >/sys/bus/mdev/devices/$uuid/keep_state &&
		in_target vfio-migrate save $uuid /tmp/state && in_target vfio-migrate load $uuid /tmp/state &&
		in_target mdevctl stop --uuid $uuid
}

# no_faults - succeeds if root cannot inject faults into an instance.
no_faults()
{
	_file=/sys/kernel/debug/mdma/$uuid/faults/save/fail_nth
	in_target mdevctl start --uuid $uuid --parent mdma --type mdma-16M && [ -e $_file ] &&
		refuses sh -c "echo 0 >$_file" && in_target mdevctl stop --uuid $uuid
}

# is_refused_by_modprobe - succeeds if the package's module is refused for its key.
is_refused_by_modprobe()
{
	dmesg -c >/dev/null
	refuses in_target modprobe mdma && log_says "Loading of module with unavailable key is rejected"
}

enter_target
mount -t securityfs securityfs /sys/kernel/security

echo "KTAP version 1"
case $key in
enrolled) echo "1..8" ;;
unknown) echo "1..5" ;;
esac
check secure_boot_is_on log_says "Secure boot enabled"
check the_kernel_is_locked_down prints "[integrity]" cat /sys/kernel/security/lockdown
check unsigned_is_refused is_refused "unsigned module" /lib/modules/extra/mdma.ko
check signed_by_another_is_refused is_refused "module with unavailable key" /other/mdma.ko
case $key in
enrolled)
	check modprobe in_target modprobe -a mdma mserial mnvme
	check a_device_works works
	check no_faults_can_be_injected no_faults
	check unload in_target modprobe -r mdma mserial mnvme
	;;
unknown)
	check the_packages_module_is_refused is_refused_by_modprobe
	;;
esac
report
