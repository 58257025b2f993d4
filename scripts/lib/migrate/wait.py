# SPDX-License-Identifier: GPL-2.0
"""Waiting for events, never for a time to pass.

Every wait has a limit so that nothing hangs for ever, and one that expires says
what was awaited. The limits are far beyond what a busy host takes.
"""

import asyncio
import inspect

LIMIT = 600.0


class Trouble(Exception):
    """Something went another way than it should have."""


class Emulation(Trouble):
    """The emulator below has a mistake that KVM stumbled over; see `CPU` in vmm.py."""


class Expired(Trouble):
    """What was awaited did not happen."""


async def event(what, awaitable, limit=LIMIT):
    """Waits for `awaitable`."""
    try:
        return await asyncio.wait_for(awaitable, limit)
    except asyncio.TimeoutError:
        raise Expired(f"nothing for {limit:.0f} s while waiting for {what}") from None


async def until(what, condition, watch=(), limit=LIMIT, pause=0.05):
    """Waits until `condition()`, which may be a coroutine, gives something, and returns that.

    Meanwhile each of `watch` is asked by `check()`, which raises if it is in trouble.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while True:
        for watched in watch:
            watched.check()
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() > end:
            raise Expired(f"{limit:.0f} s over while waiting for {what}")
        await asyncio.sleep(pause)
