# SPDX-License-Identifier: GPL-2.0
"""A headless browser, driven through pipes by the DevTools protocol."""

import base64
import json
import os
import select
import subprocess
import tempfile
import time

PROGRAM = "chromium-headless-shell"
# Seconds to wait for an answer. A start on a busy machine takes some.
LIMIT = 120
# The descriptors of the protocol in the browser.
FROM, TO = 3, 4


class Trouble(Exception):
    """The browser did not do what it was asked to."""


class Browser:
    """A browser with one page."""

    def __init__(self, program=PROGRAM):
        self.profile = tempfile.TemporaryDirectory(prefix="browser-")
        self.number = 0
        self.rest = b""
        self.events = []
        child_reads, self.writer = os.pipe()
        self.reader, child_writes = os.pipe()

        def pipes():
            # Above the others, so that none is overwritten before it is copied.
            for high, low in ((100, child_reads), (101, child_writes)):
                os.dup2(low, high)
            os.dup2(100, FROM)
            os.dup2(101, TO)

        self.process = subprocess.Popen(
            [program, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-dev-shm-usage", f"--user-data-dir={self.profile.name}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=pipes, env={**os.environ, "HOME": self.profile.name})
        os.close(child_reads)
        os.close(child_writes)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    session = None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.kill()
        self.process.wait()
        os.close(self.reader)
        os.close(self.writer)
        self.profile.cleanup()

    def message(self, what, end):
        """Returns the next message of the browser."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reader], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise Trouble(f"limit of {LIMIT} s reached while waiting for {what}")
            data = os.read(self.reader, 1 << 16)
            if not data:
                raise Trouble(f"the browser ended with {self.process.wait()} while waiting for {what}")
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def ask(self, method, **parameters):
        """Sends a command, and returns the answer. Keeps the events that come before it."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self.writer, data):]
        end = time.monotonic() + LIMIT
        while True:
            message = self.message(f"the answer to {method}", end)
            if message.get("id") == self.number:
                if "error" in message:
                    raise Trouble(f"{method}: {message['error'].get('message')}")
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def happened(self, *methods):
        """Returns the parameters of the events with these names."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def show(self, path, width, dark=False):
        """Loads a file, and waits until it has been drawn."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", media="screen",
                 features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.events.clear()
        self.ask("Page.navigate", url=f"file://{os.path.abspath(path)}")
        end = time.monotonic() + LIMIT
        while not self.happened("Page.loadEventFired"):
            message = self.message(f"{path} to load", end)
            if "method" in message:
                self.events.append(message)
        # Two frames later all is laid out, and what the page asked for was reported.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def value(self, expression):
        """Evaluates an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise Trouble(f"{expression[:60]}: {answer['exceptionDetails'].get('text')}")
        return answer["result"].get("value")

    def picture(self, box=None):
        """Returns a picture of the page, or of a box in it (x, y, width, height), as PNG."""
        parameters = {"captureBeyondViewport": True}
        if box is None:
            size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            box = (0, 0, size["width"], size["height"])
        parameters["clip"] = dict(zip(("x", "y", "width", "height"), box), scale=1)
        return base64.b64decode(self.ask("Page.captureScreenshot", **parameters)["data"])
