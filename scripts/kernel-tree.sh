# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Sourced by scripts/kernel and by the build of the Debian package: makes a kernel tree
# to build the module against from a source package of the distribution. The headers
# packages lack the metadata of the Rust crates.
#
# The caller defines sandbox, which runs its arguments where the compilers are.

# series RELEASE - prints 7.2 for 7.2.12+deb13-amd64
series()
{
	printf %s "$1" | sed 's/^\([0-9]*\.[0-9]*\).*/\1/'
}

# dotted 108501 - prints 1.85.1
dotted()
{
	printf '%d.%d.%d' $(($1 / 100000)) $(($1 / 100 % 1000)) $(($1 % 100))
}

# rustc_wanted CONFIG - prints the version of the rustc that compiled the kernel.
rustc_wanted()
{
	dotted "$(sed -n 's/^CONFIG_RUSTC_VERSION=//p' "$1")"
}

# rustc_found - prints the version of rustc, or nothing.
rustc_found()
{
	sandbox rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p'
}

# config_fault CONFIG - prints why the module cannot be built for a configuration:
# "rust", "mdev" or "rustc"; nothing if it can.
config_fault()
{
	if ! grep -q '^CONFIG_RUST=y' "$1"; then
		echo rust
	elif ! grep -q '^CONFIG_VFIO_MDEV=[ym]' "$1"; then
		echo mdev
	elif [ "$(rustc_wanted "$1")" != "$(rustc_found)" ]; then
		echo rustc
	fi
}

# compiler CONFIG - prints the C compiler that compiled the kernel, or gcc if it is missing.
compiler()
{
	if grep -q '^CONFIG_CC_IS_CLANG=y' "$1"; then
		_compiler=clang
	else
		_compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ "]*\).*/\1/p' "$1")
		sandbox sh -c "command -v $_compiler" >/dev/null || _compiler=gcc
	fi
	printf '%s\n' "$_compiler"
}

# unpack_tree TARBALL TREE - unpacks the kernel's source, without most of its 1.7 GB:
# configuration, kernel crate and samples do not need it.
unpack_tree()
{
	rm -rf "$2"
	mkdir -p "$2"
	sandbox tar -xf "$1" -C "$2" --strip-components=1 --no-same-owner \
		--exclude='*/drivers/*.c' --exclude='*/drivers/gpu/drm/*/*.h' \
		--exclude='*/sound/*.[ch]' --exclude='*/Documentation/*.rst' \
		--exclude='*/arch/*.dts*' --exclude='*/tools/testing'
}

# prepare_tree TREE RELEASE CONFIG SYMVERS COMPILER - configures the tree for a kernel
# and builds the metadata of the Rust crates.
prepare_tree()
{
	_tree=$1
	_base=$(sandbox make -s -C "$_tree" kernelversion) || return 1
	printf %s "${2#"$_base"}" >"$_tree/localversion"
	cp "$3" "$_tree/.config"
	cp "$4" "$_tree/Module.symvers"
	sandbox make -C "$_tree" ARCH=x86 CC="$5" HOSTCC=gcc -j"$(nproc)" \
		olddefconfig modules_prepare || return 1
	_made=$(sed -n 's/.*UTS_RELEASE "\(.*\)"/\1/p' "$_tree/include/generated/utsrelease.h")
	if [ "$_made" != "$2" ]; then
		echo "the release of the tree is $_made, that of the kernel is $2"
		return 1
	fi
	if ! grep -q '^CONFIG_RUST=y' "$_tree/.config"; then
		echo "the tools do not support CONFIG_RUST:"
		sandbox make -C "$_tree" ARCH=x86 CC="$5" rustavailable
		return 1
	fi
}
