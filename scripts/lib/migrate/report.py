# SPDX-License-Identifier: GPL-2.0
"""Progress messages, and the table of figures of a migration."""

import sys
import time

from migrate.timeline import device_dirty_pages, passes, timeline


def size(count):
    """Returns a number of bytes with a unit."""
    if count < 10240:
        return f"{count} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1000 or unit == "GiB":
            return f"{count:.1f} {unit}"
    return None


class Show:
    """Prints events, and heartbeats at most every two seconds."""

    def __init__(self):
        self.begin = time.monotonic()
        self.last = 0.0
        self.status = None

    def say(self, noun, text):
        """Prints a line."""
        print(f"  {noun:<11} {text}", flush=True)

    def now_and_then(self):
        """Whether two seconds have passed since this was last true."""
        moment = time.monotonic()
        if moment - self.last < 2:
            return False
        self.last = moment
        return True

    def guest(self, event):
        """Shows an event of the guest."""
        if event["event"] == "beat" and self.now_and_then():
            self.say("guest", f"at {event['at'][0]}: {event['verified']} jobs verified, "
                     f"{size(event.get('bytes', 0))} moved")

    def migration(self, migration):
        """Shows the progress of a migration."""
        info = migration.info
        if info.get("status") != self.status or self.now_and_then():
            self.status = info.get("status")
            ram = info.get("ram", {})
            states = " ".join(device.status()["state"] for device in migration.source.devices)
            self.say("migration", f"{self.status}: guest RAM {size(ram.get('transferred', 0))} sent, "
                     f"{size(ram.get('remaining', 0))} left, device {states}")


def phases(name, result, last):
    """Returns how much of a total the guest did before the migration, during it and after it."""
    before, during, after = (totals.get(name, 0) for totals in (result.before, result.during, last))
    return before, during - before, after - during


def table(source, result, last):
    """Returns the rows of the table: name, value."""
    info, ram = result.info, result.info.get("ram", {})
    dirty = passes(source, result)
    reported = device_dirty_pages(source, result)
    verified = phases("verified", result, last)
    rows = [
        ("total time", f"{info['total-time']} ms"),
        ("downtime", f"{info['downtime']} ms"),
        ("downtime limit at the end", f"{result.limit_ms} ms"),
        ("guest silent for", f"{result.silence * 1000:.0f} ms"),
        ("guest RAM, pre-copy", size(ram["precopy-bytes"] + ram["multifd-bytes"])),
        ("guest RAM, stop-and-copy", size(ram["downtime-bytes"])),
        ("guest RAM, passes", f"{ram['dirty-sync-count']}"),
        ("dirty pages, all passes", f"{sum(dirty)}"),
        ("dirty pages, last three", ", ".join(map(str, dirty[-3:])) or "not traced"),
        ("dirty pages, container", "not traced by this QEMU" if reported is None else f"{reported}"),
        ("device, pre-copy", size(result.sum("pre_copy_bytes"))),
        ("device, stop-and-copy", size(result.sum("stop_copy_bytes"))),
        ("device memory pages", f"{result.sum('pre_copy_pages')} + {result.sum('stop_copy_pages')}"),
        ("device memory, passes", f"{result.sum('passes')}"),
        ("device, loaded", size(result.sum("load_bytes", "loaded"))),
        ("jobs verified before", f"{verified[0]}"),
        ("jobs verified during", f"{verified[1]}"),
        ("jobs verified after", f"{verified[2]}"),
    ]
    for name, what in (("by_key", "on registered memory"), ("peer", "on another device"), ("moved", "blocks moved")):
        counts = phases(name, result, last)
        if any(counts):
            rows.append((f"... {what}", ", ".join(map(str, counts))))
    return rows


def show_timeline(source, destination, result, guest, file=sys.stdout):
    """Prints the timeline, without the passes in the middle if there are many."""
    print(f"\n  {'seconds':>9}  {'side':<12} event", file=file)
    for moment, where, what in timeline(source, destination, result, guest, short=True):
        print(f"  {moment:9.3f}  {where:<12} {what}", file=file)


def show_table(title, rows, file=sys.stdout):
    """Prints the table."""
    print(f"\n  {title}", file=file)
    for name, value in rows:
        print(f"  {name:<28} {value:>24}", file=file)
    file.flush()
