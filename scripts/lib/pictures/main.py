# SPDX-License-Identifier: GPL-2.0
"""Tests of pages in a browser, as KTAP; scripts/suites/pictures runs it.

usage: python3 -m pictures.main OUT PAGE=FIGURES...

PAGE is a file, and FIGURES the number of its figures. The pictures are written to the directory OUT.
"""

import os
import sys
import tempfile

from migrate.ktap import Ktap
from pictures import page, png
from pictures.browser import Browser, Trouble

WIDE, NARROW = 1200, 420

# Each has one fault, and what finds it.
FAULTS = [
    ("a_request", "<img src='file:///nothing.png'>", lambda browser, path: page.loads(browser, path)),
    ("a_script", "<script>console.log(1)</script>", lambda browser, path: page.loads(browser, path)),
    ("a_blank_figure", "<figure><svg viewBox='0 0 400 200' role='img'><title>t</title><desc>d</desc></svg></figure>",
     lambda browser, path: page.drawn(browser)),
    ("overlapping_texts", "<figure><svg viewBox='0 0 400 200' role='img'><title>t</title><desc>d</desc><rect/>"
     "<text x='50' y='50'>one</text><text x='60' y='52'>two</text></svg></figure>",
     lambda browser, path: page.figures(browser, 1)),
    ("a_text_outside", "<figure><svg viewBox='0 0 400 200' role='img'><title>t</title><desc>d</desc><rect/>"
     "<text x='390' y='50'>outside</text></svg></figure>", lambda browser, path: page.figures(browser, 1)),
    ("no_description", "<figure><svg viewBox='0 0 400 200' role='img'><title>t</title><rect/>"
     "<text x='50' y='50'>one</text></svg></figure>", lambda browser, path: page.figures(browser, 1)),
    ("a_missing_figure", "<p>text</p>", lambda browser, path: page.figures(browser, 1)),
    ("a_wide_page", "<div style='width:3000px'>wide</div>", lambda browser, path: page.too_wide(browser)),
]


def tests_of(path, count):
    """Yields the tests of a page: name and function, which returns what is wrong."""

    def at(width, dark, check):
        def test(browser, out):
            browser.show(path, width, dark)
            with open(os.path.join(out, f"{name}-{width}{'-dark' if dark else ''}.png"), "wb") as file:
                file.write(browser.picture())
            return list(check(browser))
        return test

    def dark(browser, _out):
        light = []
        for darkness in (False, True):
            browser.show(path, WIDE, darkness)
            light.append(png.lightness(browser.picture((0, 0, WIDE, 600))))
        if light[0] > 0.8 and light[1] < 0.35:
            return []
        return [f"the light page is {light[0]:.2f} light, the dark one {light[1]:.2f}"]

    name = os.path.basename(path).partition(".")[0]
    yield f"{name}_loads_nothing", at(WIDE, False, lambda browser: page.loads(browser, path))
    yield f"{name}_figures_are_whole", at(WIDE, False, lambda browser: page.figures(browser, count))
    yield f"{name}_figures_are_drawn", at(WIDE, False, page.drawn)
    yield f"{name}_figures_are_drawn_in_the_dark", at(WIDE, True, page.drawn)
    yield f"{name}_is_light_or_dark", dark
    yield f"{name}_fits_a_narrow_window", at(NARROW, False, page.too_wide)


def finds(fault, check):
    """Returns a test that the check finds a fault."""

    def test(browser, _out):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "fault.html")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"<!DOCTYPE html><title>t</title><style>body{{margin:0}}svg{{width:400px}}</style>{fault}")
            browser.show(path, WIDE)
            return [] if list(check(browser, path)) else ["nothing was found"]
    return test


def main(arguments):
    """Runs the tests, and returns the exit status."""
    out, *pages = arguments
    os.makedirs(out, exist_ok=True)
    tests = [(f"finds_{name}", finds(fault, check)) for name, fault, check in FAULTS]
    for word in pages:
        path, _, count = word.rpartition("=")
        tests += tests_of(path, int(count))
    ktap = Ktap(len(tests))
    with Browser() as browser:
        for name, test in tests:
            try:
                wrong = test(browser, out)
            except (Trouble, ValueError) as trouble:
                wrong = [str(trouble)]
            ktap.result(name, "\n".join(wrong[:20]) if wrong else None)
    return 1 if ktap.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
