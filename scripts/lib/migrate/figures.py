# SPDX-License-Identifier: GPL-2.0
"""The figures of a migration for `vfio-migrate plot`; Documentation/pictures.rst describes the file."""

from migrate.report import phases
from migrate.sample import ram_bytes
from migrate.timeline import Trace, timeline

VERSION = 1
PASS = "migration_bitmap_sync_end"
# Digits after the point of a moment, in seconds.
DIGITS = 6


def between(points, moment):
    """Returns the value at a moment between points of (moment, value), which are in order."""
    last = points[0]
    if moment <= last[0]:
        return last[1]
    for point in points[1:]:
        if moment <= point[0]:
            part = (moment - last[0]) / (point[0] - last[0]) if point[0] > last[0] else 1
            return last[1] + (point[1] - last[1]) * part
        last = point
    return last[1]


def ram_passes(syncs, points, pages, stopped):
    """Returns the passes over guest RAM.

    `syncs` has the moment at which each pass begins, and the pages that became dirty before it; the first pass sends
    all `pages`. `points` has the bytes sent by some moments, the last one at the end. `stopped` is when the guest
    stopped.
    """
    passes = []
    ends = [moment for moment, _ in syncs[1:]] + [points[-1][0]]
    for number, ((begin, dirty), end) in enumerate(zip(syncs, ends), 1):
        sent = between(points, end) - (between(points, begin) if number > 1 else 0)
        passes.append({"name": str(number), "dirty_pages": pages if number == 1 else dirty,
                       "bytes": max(round(sent), 0), "stopped": stopped is not None and begin >= stopped})
    return passes


def spans(changes, begin, end, first=None):
    """Returns the states from `begin` to `end`, of changes (moment, state); `first` is the state before the first."""
    states = []
    for moment, state in [(begin, first), *changes]:
        if state is None or moment > end:
            continue
        moment = max(moment, begin)
        if states and states[-1]["begin"] == moment:
            states.pop()
        if states and states[-1]["state"] == state:
            continue
        if states:
            states[-1]["end"] = moment
        states.append({"state": state, "begin": moment, "end": end})
    return states


def relative(value, begin):
    """Returns the value with all moments in it relative to `begin`."""
    if isinstance(value, dict):
        return {name: round(part - begin, DIGITS) if name in ("at", "begin", "end") else relative(part, begin)
                for name, part in value.items()}
    if isinstance(value, list):
        return [relative(part, begin) for part in value]
    return value


def moments(qemu, event, since, status=None):
    """Returns when a QEMU sent an event."""
    return [moment for moment, found in qemu.events
            if moment >= since and found["event"] == event
            and (status is None or found["data"].get("status") == status)]


def names(devices):
    """Returns the names of some devices."""
    return [f"device {number}" if len(devices) > 1 else "device" for number in range(len(devices))]


def lanes(source, destination, result, end):
    """Returns the states of the guest, the migration and the devices."""
    begin = result.begin
    guest = [(moment, "stopped") for moment in moments(source, "STOP", begin)]
    guest += [(moment, "runs") for moment in moments(destination, "RESUME", begin)]
    migration = [(moment, event["data"]["status"]) for moment, event in source.events
                 if moment >= begin and event["event"] == "MIGRATION"]
    found = [{"name": "guest", "states": spans(sorted(guest), begin, end, "runs")},
             {"name": "migration", "states": spans(migration, begin, end)}]
    for side, qemu in (("source", source), ("destination", destination)):
        states = list(Trace(qemu.path("trace")).states(0))
        for device, name in zip(qemu.devices, names(qemu.devices)):
            changes = [(moment, state) for moment, uuid, state in states if uuid == device.uuid]
            found.append({"name": f"{side} {name}", "states": spans(changes, begin, end)})
    return [lane for lane in found if lane["states"]]


def device_sample(moment, status):
    """Returns what was copied of a device."""
    return {"at": moment, "bytes": status["pre_copy_bytes"] + status["stop_copy_bytes"],
            "left": status["pending_bytes"], "stopped_bytes": status["stop_copy_bytes"],
            "passes": status["passes"], "dirty_pages": status["dirty_pages"]}


def begun(samples):
    """Returns the samples from the first one that has something copied or left to copy."""
    start = next((i for i, sample in enumerate(samples) if sample["bytes"] or sample["left"]), len(samples))
    return samples[start:]


def memories(source, result, stopped, end):
    """Returns what was copied of guest RAM and of the devices."""
    ram = result.info.get("ram", {})
    total = ram.get("total", 0)
    samples = [{"at": sample.moment, "bytes": sample.ram[0], "left": sample.ram[1]} for sample in result.samples]
    samples = begun([sample for sample in samples if sample["at"] < end])
    samples.append({"at": end, "bytes": ram_bytes(ram), "left": 0})
    points = [(result.begin, 0)] + [(sample["at"], sample["bytes"]) for sample in samples]
    syncs = [sync for sync in Trace(source.path("trace")).dirty(result.begin, PASS) if sync[0] <= end]
    found = [{"name": "guest RAM", "samples": samples,
              "passes": ram_passes(syncs, points, total // ram.get("page-size", 4096), stopped)}]
    for number, (device, name) in enumerate(zip(result.devices, names(result.devices))):
        saved = device.saved
        samples = [device_sample(sample.moment, sample.devices[number]) for sample in result.samples
                   if sample.moment < end]
        # The counters are those of an earlier save until this one begins.
        fresh = [sample["bytes"] for sample in samples]
        start = max((i for i in range(1, len(fresh)) if fresh[i] < fresh[i - 1]), default=0)
        samples = begun(samples[start:]) + [device_sample(end, saved)]
        found.append({"name": f"{name} state", "pages": saved["populated_pages"],
                      "stopped_pages": saved["stop_copy_pages"], "samples": samples})
    return found


def figures(title, rows, where, result, last, guest):
    """Returns the figures: `rows` of the table, `where` are source and destination, `last` the guest's last totals."""
    source, destination = where
    begin = result.begin
    ends = moments(source, "MIGRATION", begin, "completed") or [result.end]
    end = ends[0]
    stops, resumes = moments(source, "STOP", begin), moments(destination, "RESUME", begin)
    found = {"figures": VERSION, "title": title, "end": end}
    if stops and resumes and resumes[0] >= stops[0]:
        found["stopped"] = {"begin": stops[0], "end": resumes[0]}
    told = [event for event in guest.events if "verified" in event]
    before = [event["time"] for event in told if event["at"] == source.name]
    after = [event["time"] for event in told if event["at"] == destination.name]
    if before and after and before[-1] <= after[0]:
        found["silent"] = {"begin": before[-1], "end": after[0]}
    horizon = max([end, *resumes[:1], *after[:1]])
    jobs = phases("verified", result, last)
    return relative(found | {
        "lanes": lanes(source, destination, result, horizon),
        "memories": memories(source, result, stops[0] if stops else None, end),
        "jobs": {"samples": [{"at": event["time"], "jobs": event["verified"]} for event in told],
                 "before": jobs[0], "during": jobs[1], "after": jobs[2]},
        "facts": [list(row) for row in rows],
        "events": [{"at": begin + moment, "where": side, "what": what}
                   for moment, side, what in timeline(source, destination, result, guest)],
    }, begin)
