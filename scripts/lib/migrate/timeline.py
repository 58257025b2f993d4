# SPDX-License-Identifier: GPL-2.0
"""The timeline of a migration, from QEMU's traces and monitor events."""

import re
from datetime import datetime

V1_STATES = {0: "STOP", 1: "RUNNING", 2: "STOP_COPY", 3: "PRE_COPY", 4: "RESUMING", 6: "ERROR"}

# 621@1795269164.321463:vfio_save_cleanup (UUID)  in QEMU 7.2 and 10; later, an ISO date in front.
STAMP = re.compile(r"(?:\d+@(\d+\.\d+):|(\d+-\S+Z) )(\w+) (.*)")
# (UUID) state 3  in QEMU 7.2; later, (UUID) state PRE_COPY.
STATE = re.compile(r"\s*\(([^)]+)\) (?:new )?state (\w+)")
DIRTY = re.compile(r"dirty_pages[ =:]*(\d+)")

# The number of passes that a short timeline shows at each end.
SHOWN = 3


class Trace:
    """The trace of one QEMU."""

    def __init__(self, path):
        self.lines = []
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                match = STAMP.match(line)
                if match:
                    moment = float(match[1]) if match[1] else datetime.fromisoformat(match[2]).timestamp()
                    self.lines.append((moment, match[3], match[4]))

    def states(self, begin):
        """Yields the changes of device state since `begin`: time, device, state."""
        seen = {}
        for moment, name, rest in self.lines:
            if moment < begin or name not in ("vfio_migration_set_state", "vfio_migration_set_device_state"):
                continue
            match = STATE.match(rest)
            if match and seen.get(match[1]) != match[2]:
                seen[match[1]] = match[2]
                number = int(match[2]) if match[2].isdigit() else None
                yield moment, match[1], V1_STATES.get(number, match[2])

    def dirty(self, begin, event):
        """Yields the dirty page counts of an event since `begin`: time, count."""
        for moment, name, rest in self.lines:
            match = DIRTY.search(rest)
            if moment >= begin and name.startswith(event) and match:
                yield moment, int(match[1])


def pass_rows(counts, short):
    """Returns the rows of the passes with these moments and numbers of dirty pages: moment, event."""
    rows = [(moment, f"pass {number}: {pages} dirty pages of the guest")
            for number, (moment, pages) in enumerate(counts, 1)]
    middle = counts[SHOWN:-SHOWN]
    if not short or len(middle) < 2:
        return rows
    pages = [pages for _, pages in middle]
    one = (middle[0][0], f"passes {SHOWN + 1} to {SHOWN + len(middle)}: "
                         f"{min(pages)} to {max(pages)} dirty pages of the guest in each")
    return [*rows[:SHOWN], one, *rows[-SHOWN:]]


def timeline(source, destination, result, guest, short=False):
    """Returns the rows of the timeline: seconds since the start, side, event. A short one has one row for the passes
    in the middle, of which there can be more than fifty."""
    lines = []
    for where, qemu in (("source", source), ("destination", destination)):
        names = {device.uuid: f"device {number}" if len(qemu.devices) > 1 else "device"
                 for number, device in enumerate(qemu.devices)}
        trace = Trace(qemu.path("trace"))
        for moment, uuid, state in trace.states(result.begin):
            lines.append((moment, where, f"{names.get(uuid, uuid)} {state}"))
        told = pass_rows(list(trace.dirty(result.begin, "migration_bitmap_sync_end")), short)
        lines += [(moment, where, what) for moment, what in told]
        for moment, event in qemu.events:
            if moment < result.begin:
                continue
            if event["event"] in ("STOP", "RESUME"):
                lines.append((moment, where, f"guest {'stops' if event['event'] == 'STOP' else 'runs'}"))
            elif event["event"] == "MIGRATION":
                lines.append((moment, where, f"migration {event['data']['status']}"))
    first = next((event for event in guest.events if event["at"] == destination.name), None)
    if first:
        # Later events belong to the next migration or to the end.
        lines = [line for line in lines if line[0] <= first["time"]]
        lines.append((first["time"], "destination",
                      f"first message of the guest, {first.get('verified', 0)} jobs verified"))
    return [(moment - result.begin, where, what) for moment, where, what in sorted(lines)]


def device_dirty_pages(source, result):
    """Returns the dirty pages that the container reported, or None if this QEMU does not trace them."""
    trace = Trace(source.path("trace"))
    told = [pages for name in ("vfio_get_dirty_bitmap", "vfio_container_query_dirty_bitmap", "vfio_iommu_query_dirty")
            for _, pages in trace.dirty(result.begin, name)]
    return sum(told) if told else None


def passes(source, result):
    """Returns the dirty pages of each pass over guest RAM."""
    return [pages for _, pages in Trace(source.path("trace")).dirty(result.begin, "migration_bitmap_sync_end")]
