# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
#
# Sourced by the suites that install the Debian packages: a root with nothing else. The suite
# sets target to its path, source to the name of the source package, and packages to the
# directory of the packages.

# in_target COMMAND... - runs a command in the root that the packages are installed in.
in_target()
{
	"$TOP/scripts/sandbox" --rw --root "$target" "$@"
}

apt()
{
	in_target env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o Dpkg::Options::=--force-unsafe-io "$@"
}

# newest SERIES - prints the newest kernel of a series of which the source can be installed:
# release and version.
newest()
{
	_version=$("$TOP/scripts/sandbox" apt-cache show --no-all-versions "linux-source-$1" 2>/dev/null |
		sed -n 's/^Version: //p')
	for _headers in $("$TOP/scripts/sandbox" apt-cache search --names-only "^linux-headers-$1\\.[0-9]*[^-]*-amd64\$" |
		sed 's/ .*//'); do
		if "$TOP/scripts/sandbox" apt-cache show "$_headers" | grep -qxF "Version: $_version"; then
			printf '%s %s\n' "${_headers#linux-headers-}" "$_version"
			return 0
		fi
	done
	echo "no linux-headers-$1.* of version ${_version:-(no linux-source-$1)}"
	return 1
}

# target_new - creates the root, with the packages' files in /packages.
target_new()
{
	_base=$("$TOP/scripts/build-root" --packages 'apt ca-certificates kmod') || return 1
	rm -rf "$target"
	mkdir -p "$(dirname "$target")"
	cp -a "$_base" "$target"
	# Our build root installs no man pages.
	rm -f "$target"/etc/dpkg/dpkg.cfg.d/*mmdebstrap*
	mkdir -p "$target/packages"
	cp "$packages"/*.deb "$target/packages/"
}

# install_kernel RELEASE VERSION [PACKAGE]... - installs a kernel's modules, headers and
# source, and packages.
install_kernel()
{
	_release=$1
	_version=$2
	shift 2
	# The newer packages have the modules apart from the image.
	_modules=linux-modules-$_release
	[ -n "$(in_target apt-cache show "$_modules" 2>/dev/null)" ] || _modules=linux-image-$_release
	apt install "$_modules=$_version" --no-install-recommends "linux-headers-$_release=$_version" \
		"linux-source-$(printf %s "$_release" | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')=$_version" "$@"
}
