# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
#
# Sourced by the scripts that compile a kernel from the distribution's source package.
# They define $version, $series, $toolchain and sandbox().

# need_space MIB WHAT - ends the script if the cache has less free space.
need_space()
{
	_free=$(($(df -Pk "$CACHE" | awk 'NR == 2 { print $4 }') / 1024))
	[ "$_free" -ge "$1" ] ||
		die "$2 needs $1 MiB, but $CACHE has $_free MiB left" \
			"Free some space, or set XDG_CACHE_HOME to a directory with more of it."
}

# need_commands NAME... - ends the script if one of the compilers is missing.
need_commands()
{
	for _command; do
		sandbox sh -c "command -v $_command" >/dev/null || die "no $_command in the build environment" \
			"With ROOT=none, install it: apt-get install $_command" \
			"Otherwise create the build root again: scripts/build-root --update"
	done
}

# unpack_source DIR - downloads the source package and unpacks it as DIR/tree, without
# files that are not compiled here. The tree appears only when it is complete.
unpack_source()
{
	rm -rf "$1/tree" "$1/tree.new" "$1/source" "$1/deb"
	mkdir -p "$1/deb" "$1/tree.new"
	(cd "$1/deb" && sandbox apt-get -q download "linux-source-$series=$version") || return 1
	sandbox dpkg-deb --extract "$(ls "$1"/deb/linux-source-*.deb)" "$1/source" || return 1
	sandbox tar -xf "$1/source/usr/src/linux-source-$series.tar.xz" -C "$1/tree.new" \
		--strip-components=1 --no-same-owner \
		--exclude='*/drivers/gpu/drm/*.[ch]' --exclude='*/sound/*.[ch]' \
		--exclude='*/Documentation/*.rst' --exclude='*/arch/*.dts*' \
		--exclude='*/tools/testing' || return 1
	rm -rf "$1/source" "$1/deb"
	[ $# -lt 2 ] || "$2" "$1/tree.new" || return 1
	mv "$1/tree.new" "$1/tree"
}

# missing_options CONFIG FRAGMENT... - prints the options of the fragments that CONFIG
# lacks. A later fragment overrides an earlier one.
missing_options()
{
	awk '
	/^# CONFIG_[A-Z0-9_]* is not set/ { line = $2 "=n" }
	/^CONFIG_/ { line = $0 }
	!/CONFIG_/ { next }
	{ name = substr(line, 1, index(line, "=") - 1) }
	FILENAME == ARGV[1] { is[name] = line; next }
	{ want[name] = line }
	END {
		for (name in want) {
			if (!(name in is)) is[name] = name "=n"
			if (want[name] != is[name]) print want[name]
		}
	}' "$@"
}
