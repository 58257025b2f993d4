# SPDX-License-Identifier: GPL-2.0
"""Writes pages that list the documented crates.

usage: python3 -m doc.crates FOLDER

FOLDER has rustdoc's output for the crates that Kbuild builds in kernel/, and for those
that cargo builds in userspace/. Both get an index.html, to which rustdoc's pages link,
and FOLDER gets one for all crates.
"""

import html
import pathlib
import re
import sys

PARTS = {
    "kernel": "Crates of the module, as Kbuild builds them",
    "userspace": "Crates of the programs, as cargo builds them",
}

DESCRIPTION = re.compile(r'<meta name="description" content="([^"]*)"')

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Crates of vfio-mdev-rs</title>
<style>
body {{ font-family: sans-serif; line-height: 1.4; max-width: 60em; margin: 2em auto; padding: 0 1em }}
dt {{ font-family: monospace; margin-top: 0.6em }}
</style>
</head>
<body>
<h1>Crates of vfio-mdev-rs</h1>
{body}
</body>
</html>
"""


def described(folder):
    """Returns each crate below a folder of rustdoc's output, with its description."""
    found = {}
    for page in sorted(folder.glob("*/index.html")):
        description = DESCRIPTION.search(page.read_text())
        if description and page.parent.name != "src":
            found[page.parent.name] = html.unescape(description[1])
    return found


def marked(description):
    """Returns a description, in which `code` is in backticks, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(description))


def listed(parts):
    """Returns the page; `parts` maps (heading, folder of the pages) to crates."""
    body = []
    for (heading, folder), crates in parts.items():
        body += [f"<h2>{html.escape(heading)}</h2>", "<dl>"]
        for name, description in crates.items():
            body += [f'<dt><a href="{folder}{name}/index.html">{name}</a></dt>', f"<dd>{marked(description)}</dd>"]
        body.append("</dl>")
    return PAGE.format(body="\n".join(body))


def main(arguments):
    """Runs the command and returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if arguments in (["-h"], ["--help"]) else 2
    folder = pathlib.Path(arguments[0])
    everything, empty = {}, False
    for part, heading in PARTS.items():
        if (folder / part).is_dir():
            crates = described(folder / part)
            everything[heading, f"{part}/"] = crates
            (folder / part / "index.html").write_text(listed({(heading, ""): crates}))
            if not crates:
                print(f"error: {part} has no crates", file=sys.stderr)
                empty = True
    (folder / "index.html").write_text(listed(everything))
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
