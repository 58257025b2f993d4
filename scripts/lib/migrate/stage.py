# SPDX-License-Identifier: GPL-2.0
"""The state of a plan while its tests run, and what they say about QEMU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What the support table says of a feature, unless it works."""

    # "refused": before anything happens, with the reason. "fails": the migration fails, and the guest continues at
    # the source. "loses": the guest ends, or loses data.
    what: str
    # The decisive line of QEMU or of the kernel.
    line: str
    # Where it comes from: "QEMU", "kernel", "device", "guest" or "request", if the user asked for just that.
    whose: str = "QEMU"


class Stage:
    """A plan at work."""

    def __init__(self, plan, options, ktap, fixture):
        self.plan = plan
        self.options = options
        self.ktap = ktap
        self.fixture = fixture
        self.forget()

    def forget(self):
        """Forgets what the last test has found."""
        self.verdict = None
        self.figures = {}

    def say(self, text):
        """Prints a diagnostic text."""
        self.ktap.say(text)

    progress = say

    def finds(self, what, line, whose="QEMU"):
        """Notes a verdict for the support table."""
        self.verdict = Verdict(what, line, whose)
        self.say(f"{what}, {whose}: {line}")

    def measures(self, figures):
        """Notes figures for the support table: what they are of, and their values as texts."""
        self.figures = figures
        self.say(", ".join(f"{name} {value}" for name, value in figures.items()))
