# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.wait."""

import asyncio
import unittest

from migrate import wait


class Watched:
    """Something to watch, which may be in trouble."""

    def __init__(self, trouble=None):
        self.trouble = trouble

    def check(self):
        if self.trouble:
            raise self.trouble


class Until(unittest.TestCase):
    def until(self, condition, **options):
        return asyncio.run(wait.until("it", condition, pause=0, **options))

    def test_returns_the_value_of_the_condition(self):
        values = iter([None, 0, "value"])
        self.assertEqual(self.until(lambda: next(values)), "value")

    def test_the_condition_may_be_a_coroutine(self):
        async def condition():
            return 7

        self.assertEqual(self.until(condition), 7)

    def test_says_what_was_awaited(self):
        with self.assertRaisesRegex(wait.Expired, "waiting for it"):
            self.until(lambda: None, limit=0)

    def test_progress_starts_the_limit_over(self):
        values = iter([None] * 5 + ["value"])
        steps = iter(range(9))
        slow = {"limit": 0.05, "progress": lambda: next(steps)}

        async def condition():
            await asyncio.sleep(0.02)
            return next(values)

        self.assertEqual(self.until(condition, **slow), "value")

    def test_without_progress_the_limit_is_reached(self):
        with self.assertRaisesRegex(wait.Expired, "waiting for it"):
            self.until(lambda: None, limit=0.01, progress=lambda: 1)

    def test_progress_without_end_is_too_much(self):
        steps = iter(range(10 ** 9))
        with self.assertRaisesRegex(wait.Expired, "waiting for it"):
            self.until(lambda: None, limit=0.01, progress=lambda: next(steps))

    def test_trouble_ends_the_wait(self):
        with self.assertRaisesRegex(wait.Trouble, "broken"):
            self.until(lambda: None, watch=[Watched(), Watched(wait.Trouble("broken"))])


class Event(unittest.TestCase):
    def test_says_what_was_awaited(self):
        with self.assertRaisesRegex(wait.Expired, "waiting for it"):
            asyncio.run(wait.event("it", asyncio.sleep(60), limit=0.01))
