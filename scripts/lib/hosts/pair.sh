# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
#
# Sourced by the suites that need two machines on a network. Machine A, 10.0.0.1, has the newest
# 7.2 kernel, and machine B, 10.0.0.2, the newest 7.3 kernel.

. "$TOP/scripts/lib/deb/target.sh"

# prepare_pair - builds the modules and the guest's image.
prepare_pair()
{
	"$TOP/scripts/kernel" >/dev/null && kernel_a=$(newest 7.2) && kernel_b=$(newest 7.3) || return 1
	kernel_a=linux-image-${kernel_a% *}
	kernel_b=linux-image-${kernel_b% *}
	module_a=$(KERNEL=$kernel_a "$TOP/scripts/module") && module_b=$(KERNEL=$kernel_b "$TOP/scripts/module") &&
		image=$(KERNEL=$kernel_b "$TOP/scripts/guest-image")
}

# machine A|B DIR [OPTION]... - runs one of the machines with these options of scripts/vm, in
# place of the calling process. Both share DIR as /out.
machine()
{
	case $1 in
	A) KERNEL=$kernel_a _module=$module_a _number=1 ;;
	B) KERNEL=$kernel_b _module=$module_b _number=2 ;;
	esac
	export KERNEL
	_dir=$2
	shift 2
	# shellcheck disable=SC2046
	exec "$TOP/scripts/vm" --cpus 1 $(nested_vm) --network "$BUILD/network:$_number" --module "$_module" \
		--share "$image:/image" --share "$TOP/scripts/lib:/scripts" --out "$_dir" "$@"
}

# run_pair NAME TEXT COMMAND... - runs COMMAND A DIR and COMMAND B DIR in parallel, and counts
# their reports. COMMAND ends in machine.
run_pair()
{
	name=$1
	text=$2
	shift 2
	dir=$CACHE/log/test-$name
	rm -rf "$dir" "$BUILD/network"
	mkdir -p "$BUILD/network"
	begin_part "$tally/$name-a" "$@" A "$dir"
	a=$part
	begin_part "$tally/$name-b" "$@" B "$dir"
	b=$part
	await_report "$name-a" "$text, machine A" "$a"
	await_report "$name-b" "$text, machine B" "$b"
}
