# SPDX-License-Identifier: GPL-2.0
"""Which tests run when there is no time for all of them: a core always, and the others in turns."""

from migrate.plan import Case


def units(plan):
    """Yields lists of tests that belong together, with their seconds. Each `Case` is a unit."""
    tests = plan.names()
    if not all(isinstance(test, Case) for test in plan.tests):
        yield tests, plan.seconds
        return
    ends = tests[len(plan.tests):]
    for pair in tests[:len(plan.tests)]:
        yield [pair, *ends], plan.seconds / len(plan.tests)


def choose(plans, seconds, turn):
    """Returns pairs of a plan and its tests, of a turn that takes about so many seconds.

    The others are split into slices that fit into the time that the core leaves; a turn takes one slice. So as many
    turns as there are slices run all of them.
    """
    room = seconds - sum(plan.seconds for plan in plans if plan.always)
    slices, left = [[]], room
    for plan in plans:
        for tests, needs in () if plan.always else units(plan):
            if slices[-1] and needs > left:
                slices.append([])
                left = room
            left -= needs
            slices[-1] += [(plan.name, name) for name, _ in tests]
    chosen = set(slices[turn % len(slices)])
    found = []
    for plan in plans:
        tests = [pair for pair in plan.names() if plan.always or (plan.name, pair[0]) in chosen]
        if tests:
            found.append((plan, tests))
    return found


def part(plans, which):
    """Returns part K/N of pairs of a plan and its tests. The parts take about the same time."""
    number, count = map(int, which.split("/"))
    parts = [[] for _ in range(count)]
    for pair in sorted(plans, key=lambda pair: -pair[0].seconds):
        min(parts, key=lambda part: sum(plan.seconds for plan, _ in part)).append(pair)
    return [pair for pair in plans if pair in parts[number - 1]]
