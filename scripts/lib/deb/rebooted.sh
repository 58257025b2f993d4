#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in a virtual machine after installed.sh has run in another one: the definitions in
# /out are what a reboot leaves. udev starts the instance when the module is loaded.

set -u
uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
. /check/ktap.sh

# udev - starts udev's daemon, and a log for what the rules print.
udev()
{
	syslogd -O /tmp/messages || return 1
	in_target /usr/lib/systemd/systemd-udevd --daemon
}

# starts_by_itself - waits for the instance.
starts_by_itself()
{
	for _second in $(seq 180); do
		[ ! -e /sys/bus/mdev/devices/$uuid/keep_state ] || return 0
		sleep 1
	done
	echo "waited 180 s for udev and mdevctl to start $uuid"
	cat /tmp/messages
	return 1
}

# attributes - waits for mdevctl to write the attributes.
attributes()
{
	for _second in $(seq 180); do
		[ "$(cat /sys/bus/mdev/devices/$uuid/keep_state 2>/dev/null)" != 1 ] ||
			[ "$(cat /sys/bus/mdev/devices/$uuid/payload_checksums 2>/dev/null)" != 0 ] || return 0
		sleep 1
	done
	echo "waited 180 s for keep_state 1 and payload_checksums 0"
	return 1
}

enter_target
mount --bind /out /target/etc/mdevctl.d

echo "KTAP version 1"
echo "1..5"
check udev udev
check nothing_runs_yet [ ! -e /sys/bus/mdev/devices/$uuid ]
check modprobe in_target modprobe mdma
check the_instance_starts_by_itself starts_by_itself
check it_has_its_attributes attributes
report
