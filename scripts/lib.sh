# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2034
#
# Sourced by the other scripts: the cache, progress output, and locks between
# concurrent runs.

umask 022
LC_ALL=C.UTF-8
export LC_ALL

: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME

# The checkout that the script belongs to.
TOP=$(cd "$(dirname "$0")/.." && pwd -P)

# Everything downloaded or built. You can delete it while nothing runs.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-mdev-rs
mkdir -p "$CACHE/log" "$CACHE/lock"
CACHE=$(cd "$CACHE" && pwd -P)

# Build results of this checkout. Each checkout has a directory.
BUILD=$CACHE/build/$(basename "$TOP")-$(printf %s "$TOP" | sha256sum | cut -c1-8)

SUITE=${SUITE:-trixie}

# QEMU of trixie-backports. apt takes only packages that are named so from backports.
QEMU_BACKPORTS='qemu-system-x86/trixie-backports qemu-system-common/trixie-backports
	qemu-system-data/trixie-backports seabios/trixie-backports'

# ---- messages ---------------------------------------------------------------

# say NOUN TEXT... - prints one aligned line for the user.
say()
{
	_noun=$1
	shift
	printf '  %-9s %s\n' "$_noun" "$*" >&2
}

# die TEXT [LINE...] - prints an error and ends the script.
die()
{
	printf '\n%s: %s\n' "$(basename "$0")" "$1" >&2
	shift
	for _line; do
		printf '  %s\n' "$_line" >&2
	done
	exit 1
}

# usage - prints the header comment of the script.
usage()
{
	awk '/^# usage:/ { on = 1 } !/^#/ { if (on) exit } on { sub(/^# ?/, ""); print }' "$0"
}

# elapsed SECONDS - prints "12 s" or "3 min 05 s".
elapsed()
{
	if [ "$1" -lt 100 ]; then
		printf '%d s' "$1"
	else
		printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
	fi
}

# kernel_arch CONFIG - prints the kernel's name of the architecture of a configuration.
kernel_arch()
{
	if grep -q '^CONFIG_UML=y' "$1"; then
		echo um
	else
		echo x86
	fi
}

# The devices that the selftests run on: each a module and one of its mdev types. All
# modules are built at once, in one directory.
DEVICES='mdma:mdma-16M scratch:scratch-1 mserial:mserial-1 mnvme:mnvme-64M'

# Rounds of random and racing tests on a device other than the first. They race the same
# framework, whose faults the first device finds; only the device's own code is new.
FEWER_ITERATIONS=250

# The devices of the fuzzer.
FUZZED='mdma mserial mnvme'

# vm_modules MODULE - prints the options of scripts/vm that add the modules of FUZZED, which
# are in the directory of mdma.ko; fuzz_modules prints those of the fuzzer that load them.
vm_modules()
{
	for _device in $FUZZED; do
		printf ' --module %s/%s.ko' "$(dirname "$1")" "$_device"
	done
}

fuzz_modules()
{
	for _device in $FUZZED; do
		printf ' --module /lib/modules/extra/%s.ko' "$_device"
	done
}

# What the virtual machine of the selftests has beyond others: KVM, and a PCI device with
# an IOMMU, for vfio-pci.
SELFTESTS_VM='--load kvm_amd --load vfio-pci --append intel_iommu=on --qemu -machine --qemu q35
--qemu -device --qemu intel-iommu --qemu -device --qemu edu'

# nested_vm - prints the options of scripts/vm for a machine that runs guests under KVM. It has a
# simple model of a processor, and should have one: with two, or with all features that QEMU
# emulates, nested guests are slower, and the virtual machine sometimes crashes; see
# Documentation/qemu.rst.
nested_vm()
{
	printf ' --load kvm_amd'
	[ "${ACCEL:-tcg}" = kvm ] || printf ' --cpu qemu64,+svm,+npt,+nrip-save'
}

# selftests PROGRAMS MODULE DEVICE [VM_OPTION]... -- [OPTION]... - runs the selftests in
# this directory on a device of DEVICES, with the modules in the directory of mdma.ko, in
# a virtual machine, in place of the calling process.
selftests()
{
	_program=$1/selftests
	_ko=${3%%:*}
	_type=${3#*:}
	_vm="--module $(dirname "$2")/variants.ko"
	for _device in $DEVICES; do
		_vm="$_vm --module $(dirname "$2")/${_device%%:*}.ko"
	done
	_scripts=
	if [ -d "$TOP/samples/$_ko/tests" ]; then
		_vm="$_vm --file $TOP/samples/$_ko/tests:/scripts"
		_scripts="--scripts /scripts"
	fi
	shift 3
	while [ "$1" != -- ]; do
		_vm="$_vm $1"
		shift
	done
	shift
	# shellcheck disable=SC2086
	exec "$TOP/scripts/vm" $_vm --file "$_program:/bin/selftests" --stop '^Bail out!' -- \
		/bin/selftests --module "/lib/modules/extra/$_ko.ko" --type "$_type" $_scripts "$@"
}

# check_device NAME - ends the script unless this is a device of DEVICES.
check_device()
{
	case " $DEVICES" in
	*" $1:"*) ;;
	*) die "there is no device $1" "The devices are $(printf '%s\n' "$DEVICES" | sed 's/:[^ ]*//g')." ;;
	esac
}

# ---- steps ------------------------------------------------------------------

# ticker LOG NOUN TEXT - updates one terminal line while a step runs.
ticker()
{
	_start=$(date +%s)
	while kill -0 $$ 2>/dev/null; do
		_now=$(($(date +%s) - _start))
		_last=$(tail -n 1 "$1" 2>/dev/null | tr -dc '[:print:]' | cut -c1-48)
		printf '\r\033[K  %-9s %-46s %5s s  \033[2m%s\033[0m' "$2" "$3" "$_now" "$_last" >&2
		sleep 0.5
	done
}

# errors LOG - prints the lines of a log that explain a failure: the output of failed
# tests and of the VM and where a test hangs, or compiler output from the first error on,
# or the last lines.
errors()
{
	if grep -qE '^(not ok|vm: )' "$1"; then
		awk '
		/^# [^ ]+ has run for / { hangs = n + 1 }
		/^(ok|not ok) / { hangs = 0 }
		/^vm: / && !rest { rest = 1; if (hangs) for (i = hangs; i <= n; i++) print said[i] }
		rest { print; next }
		/^ok / { n = 0; next }
		{ said[++n] = $0 }
		/^not ok / {
			for (i = 1; i <= n; i++)
				if (i <= 10 || i > n - 15) print said[i]
				else if (i == 11) print "..."
			n = 0
		}' "$1"
	elif grep -qE '^error|: error: |^E: |^failures:$' "$1"; then
		awk '/^error|: error: |^E: |^failures:$/ { on = 1 } on { print; if (++n == 60) exit }' "$1"
	else
		tail -n 15 "$1"
	fi
}

# step LOG NOUN TEXT COMMAND... - runs COMMAND with its output in LOG, and prints one
# line. If COMMAND fails, also prints errors and the path of the log. step_begin= is the
# time when it began, if that was before.
step()
{
	STEP_LOG=$1
	_what=$2
	_text=$3
	shift 3
	mkdir -p "$(dirname "$STEP_LOG")"
	_begin=${step_begin:-$(date +%s)}
	_ticker=
	if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ] && [ -z "${V:-}" ]; then
		: >"$STEP_LOG"
		ticker "$STEP_LOG" "$_what" "$_text" &
		_ticker=$!
	else
		printf '  %-9s %-46s ' "$_what" "$_text" >&2
	fi
	_status=0
	if [ -n "${V:-}" ]; then
		printf '\n' >&2
		{ "$@" 2>&1 </dev/null || echo $? >"$STEP_LOG.status"; } | tee "$STEP_LOG" >&2
		if [ -e "$STEP_LOG.status" ]; then
			_status=$(cat "$STEP_LOG.status")
			rm "$STEP_LOG.status"
		fi
	else
		"$@" >"$STEP_LOG" 2>&1 </dev/null || _status=$?
	fi
	if [ -n "$_ticker" ]; then
		kill "$_ticker" 2>/dev/null || :
		wait "$_ticker" 2>/dev/null || :
		printf '\r\033[K  %-9s %-46s ' "$_what" "$_text" >&2
	fi
	_took=$(($(date +%s) - _begin))
	if [ "$_status" -eq 0 ]; then
		printf '%12s\n' "$(elapsed $_took)" >&2
		return 0
	fi
	printf '%12s\n' "failed" >&2
	{
		printf '\n'
		errors "$STEP_LOG" | sed 's/^/  | /'
		printf '\n%s: %s: %s failed (exit %d) after %s\n' \
			"$(basename "$0")" "$_what" "$_text" "$_status" "$(elapsed $_took)"
		printf '  complete log: %s\n' "$STEP_LOG"
	} >&2
	return "$_status"
}

# ---- one at a time ----------------------------------------------------------

# lock NAME - holds the lock NAME until unlock or the end of the script.
lock()
{
	exec 9>"$CACHE/lock/$1"
	if ! flock -n 9; then
		say "${1%%-*}" "waiting for another run"
		flock 9
	fi
}

unlock()
{
	exec 9>&-
}
