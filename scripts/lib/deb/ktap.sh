# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Sourced by the scripts that run in a virtual machine: tests, and their results as KTAP.

number=0
failed=0

in_target()
{
	chroot /target /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# check NAME COMMAND... - a test: succeeds if the command does. Its variables are lost.
check()
{
	number=$((number + 1))
	_name=$1
	shift
	if ("$@") >/tmp/said 2>&1; then
		echo "ok $number $_name"
	else
		failed=$((failed + 1))
		sed 's/^/# /' /tmp/said
		echo "not ok $number $_name"
	fi
}

# prints TEXT COMMAND... - succeeds if the command prints the text.
prints()
{
	_text=$1
	shift
	"$@" >/tmp/printed 2>&1 || { cat /tmp/printed; return 1; }
	cat /tmp/printed
	grep -qF -- "$_text" /tmp/printed
}

# refuses COMMAND... - succeeds if the command fails.
refuses()
{
	! "$@"
}

# enter_target - mounts what the programs in /target need.
enter_target()
{
	mount -t proc proc /target/proc
	mount -t sysfs sysfs /target/sys
	mount -t debugfs debugfs /target/sys/kernel/debug
	mount --rbind /dev /target/dev
	for _directory in etc/mdevctl.d run tmp; do
		mount -t tmpfs tmpfs "/target/$_directory"
	done
	mkdir -p /target/etc/mdevctl.d/scripts.d/callouts /target/etc/mdevctl.d/scripts.d/notifiers
}

# report - prints the totals, and fails if a test has failed.
report()
{
	echo "# Totals: pass:$((number - failed)) fail:$failed skip:0"
	[ "$failed" -eq 0 ]
}
