# SPDX-License-Identifier: GPL-2.0
"""Waits for events, never for a fixed time.

Each wait has a limit, which a busy host does not reach, and an error that names the
event.
"""

import asyncio
import inspect

LIMIT = 600.0
# A wait that makes progress may take this many limits.
LIMITS = 10


class Trouble(Exception):
    """A test failed, or its environment did."""


class Emulation(Trouble):
    """A bug of the emulator that runs the virtual machine hit KVM; see `CPU` in qemu.py."""


class Expired(Trouble):
    """A wait reached its limit."""


async def event(what, awaitable, limit=LIMIT):
    """Waits for `awaitable`."""
    try:
        return await asyncio.wait_for(awaitable, limit)
    except asyncio.TimeoutError:
        raise Expired(f"limit of {limit:.0f} s reached while waiting for {what}") from None


async def until(what, condition, watch=(), limit=LIMIT, pause=0.05, progress=None):
    """Waits until `condition()`, a function or coroutine, returns a true value, and returns it.

    Also calls `check()` of each object in `watch`, which raises if the object failed. The limit starts over when
    `progress()` returns another value, which shows that a slow host still gets on.
    """
    loop = asyncio.get_running_loop()
    begin = since = loop.time()
    last = None
    while True:
        for watched in watch:
            watched.check()
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        now = loop.time()
        if progress and last != (last := progress()):
            since = now
        if now - since > limit or now - begin > LIMITS * limit:
            raise Expired(f"limit of {limit:.0f} s reached while waiting for {what}")
        await asyncio.sleep(pause)
