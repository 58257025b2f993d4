# SPDX-License-Identifier: GPL-2.0
"""What is wrong with a page that a browser shows."""

from pictures import png

# Texts in a figure, its box, and what a reader who sees nothing is told. A rotated text has its own box.
LOOK = """
[...document.querySelectorAll('figure > svg')].map(svg => {
  const box = r => [r.x + scrollX, r.y + scrollY, r.width, r.height];
  return {
    box: box(svg.getBoundingClientRect()),
    title: (svg.querySelector(':scope > title') || {}).textContent || '',
    told: (svg.querySelector(':scope > desc') || {}).textContent || '',
    role: svg.getAttribute('role') || '',
    texts: [...svg.querySelectorAll('text')].map(text => ({
      text: text.textContent.trim(), box: box(text.getBoundingClientRect())})),
    shapes: svg.querySelectorAll('rect, circle, line, polyline, polygon, path').length,
  };
})
"""
# What could run or load something.
ACTIVE = """
[...document.querySelectorAll('*')].filter(e => /^(script|iframe|object|embed|link|img|image|use|base|form)$/i
  .test(e.tagName) || [...e.attributes].some(a => /^on/i.test(a.name) || /^(src|href|xlink:href)$/i.test(a.name)))
  .map(e => e.outerHTML.slice(0, 80))
"""
WIDE = "document.documentElement.scrollWidth - innerWidth"
# Pixels that a text may touch another one or the edge.
TOUCH = 1.5
# The share of a figure that is drawn on, at least.
DRAWN = 0.005


def outside(inner, outer):
    """Whether a box is not in another one."""
    return (inner[0] < outer[0] - TOUCH or inner[1] < outer[1] - TOUCH
            or inner[0] + inner[2] > outer[0] + outer[2] + TOUCH or inner[1] + inner[3] > outer[1] + outer[3] + TOUCH)


def overlap(one, other):
    """Whether two boxes overlap."""
    return (one[0] + TOUCH < other[0] + other[2] and other[0] + TOUCH < one[0] + one[2]
            and one[1] + TOUCH < other[1] + other[3] and other[1] + TOUCH < one[1] + one[3])


def loads(browser, path):
    """Yields what the page asked for, ran, or complained about."""
    asked = [request["request"]["url"] for request in browser.happened("Network.requestWillBeSent")]
    for url in asked[1:]:
        yield f"the page asked for {url}"
    if not asked or not asked[0].endswith(path.rpartition("/")[2]):
        yield f"the browser loaded {asked}"
    for entry in browser.happened("Log.entryAdded"):
        yield f"the console says: {entry['entry']['text']}"
    for event in browser.happened("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
        yield f"a script ran: {str(event)[:200]}"
    for element in browser.value(ACTIVE):
        yield f"the page has {element}"


def figures(browser, count):
    """Yields what is wrong with the figures, of which there are `count`."""
    found = browser.value(LOOK)
    if len(found) != count:
        yield f"the page has {len(found)} figures, not {count}"
    for figure in found:
        name = figure["title"]
        if not name or not figure["told"] or figure["role"] != "img":
            yield f"figure {name!r} has no title, no description or no role"
        if not figure["shapes"] or not figure["texts"]:
            yield f"{name}: {figure['shapes']} shapes and {len(figure['texts'])} texts"
        texts = [text for text in figure["texts"] if text["text"]]
        for number, text in enumerate(texts):
            if outside(text["box"], figure["box"]):
                yield f"{name}: {text['text']!r} is not within the figure"
            for other in texts[:number]:
                if overlap(text["box"], other["box"]):
                    yield f"{name}: {other['text']!r} and {text['text']!r} overlap"


def drawn(browser):
    """Yields the figures that are blank, or outside of the page."""
    width = browser.value("innerWidth")
    for figure in browser.value(LOOK):
        x, _, wide, high = box = figure["box"]
        if wide < 100 or high < 50 or x < 0 or x + wide > width + TOUCH:
            yield f"{figure['title']}: its box {box} is not within the page"
            continue
        count = png.colours(browser.picture(box))
        background = max(count.values())
        if len(count) < 4 or sum(count.values()) - background < DRAWN * sum(count.values()):
            yield f"{figure['title']}: {len(count)} colours, {background} of {sum(count.values())} pixels have one"


def too_wide(browser):
    """Yields by how much the page is wider than the window."""
    wide = browser.value(WIDE)
    if wide > 0:
        yield f"the page is {wide} pixels wider than the window"
