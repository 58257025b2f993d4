# SPDX-License-Identifier: GPL-2.0
"""Runs the test plans with real QEMUs."""

import os
import re
import traceback

from migrate import selection
from migrate import support
from migrate.fixture import Fixture, keep
from migrate.ktap import Ktap
from migrate.plans import PLANS
from migrate.stage import Stage
from migrate.wait import Emulation, Trouble

# Guests per plan: if the emulator's bug hits a guest, the next one runs the tests that
# are left.
GUESTS = 3


async def perform(stage, test, last):
    """Runs a test, and returns the reason of a failure. Raises the emulator's bug unless this is the `last` guest."""
    fixture = stage.fixture
    stage.forget()
    try:
        if fixture.lost:
            ends = stage.plan.whole and test is stage.plan.names()[-1][1]
            if not stage.plan.boots or ends and fixture.failed:
                return "the guest ended or failed in an earlier test"
            await fixture.again()
        await test(stage)
        return None
    except Emulation as trouble:
        if not last:
            raise
        why = str(trouble)
    except Trouble as trouble:
        why = f"{type(trouble).__name__}: {trouble}"
    except Exception:  # pylint: disable=broad-except
        why = traceback.format_exc()
    fixture.lost = fixture.failed = True
    return why


async def go_through(stage, tests, last):
    """Runs the tests, and removes each from the list once it has a result."""
    while tests:
        name, test = tests[0]
        why = await perform(stage, test, last)
        tests.pop(0)
        finish(stage.ktap, stage.plan, name, test, why, stage)


def finish(ktap, plan, name, test, why, stage=None):
    """Reports the result of a test."""
    told = support.line(plan, test, stage, why)
    if told:
        ktap.say(told)
    ktap.result(name, why)


async def run(options, module, work, out):
    """Runs all tests, and returns the exit status."""
    plans = [(plan, plan.names()) for plan in PLANS]
    if options.minutes:
        plans = selection.choose(PLANS, options.minutes * 60, options.turn)
    return await run_plans(selection.part(plans, options.part), options, module, work, out)


async def run_plans(plans, options, module, work, out, hosts=None):
    """Runs pairs of a plan and its tests, and returns the exit status. Keeps the logs in `out`, if that is not None."""
    wanted = re.compile(options.only or "")
    plans = [(plan, found) for plan, tests in plans
             if (found := [pair for pair in tests if wanted.search(pair[0])])]
    ktap = Ktap(sum(len(tests) for _, tests in plans))
    for plan, tests in plans:
        ktap.say(f"{plan.name}: {plan.settings.words()}")
        if not os.path.exists(plan.needs):
            for name, _ in tests:
                ktap.skip(name, f"the host's kernel has no {plan.needs}")
            continue
        why = None
        for number in range(1, GUESTS + 1):
            directory = os.path.join(work, f"{plan.name}.{number}")
            try:
                module.load(plan.settings.drivers, plan.module, **plan.parameters)
                async with Fixture(plan.settings, directory, hosts=hosts) as fixture:
                    if plan.boots:
                        await fixture.boot()
                    await go_through(Stage(plan, options, ktap, fixture), tests, number == GUESTS)
                why = None
                break
            except Emulation as trouble:
                ktap.say(f"continues with another guest: {trouble}")
                why = str(trouble)
            except Trouble as trouble:
                why = str(trouble)
                break
            except Exception:  # pylint: disable=broad-except
                why = traceback.format_exc()
                break
            finally:
                if out and os.path.isdir(directory):
                    keep(directory, os.path.join(out, os.path.basename(directory)))
        if not tests and why:
            ktap.say(f"{plan.name}, after its tests: {why}")
            ktap.failed += 1
        for name, test in tests:
            finish(ktap, plan, name, test, why)
    return 1 if ktap.failed else 0
