# SPDX-License-Identifier: GPL-2.0
"""Lines of a report for the support table: scripts/lib/support reads them."""

import json

from support.results import MARK


def row(plan, test):
    """Returns group and feature of a test, or None if it is no row of the table."""
    feature = getattr(test, "feature", "") or plan.feature
    return (plan.group, feature) if plan.group and feature else None


def line(plan, test, stage, trouble):
    """Returns the line about a test: what the stage has found, or the reason of a failure. None if it is no row.

    There is no stage if the guest did not boot.
    """
    place = row(plan, test)
    if place is None:
        return None
    told = {"group": place[0], "feature": place[1], "qemu": plan.settings.qemu}
    if trouble is not None:
        told |= {"result": "broken", "line": trouble.strip().splitlines()[-1] if trouble.strip() else "", "whose": "?"}
    elif stage.verdict is not None:
        told |= {"result": stage.verdict.what, "line": stage.verdict.line, "whose": stage.verdict.whose}
    else:
        told |= {"result": "works"}
    if stage and stage.figures:
        told |= {"figures": stage.figures}
    return MARK + json.dumps(told)
