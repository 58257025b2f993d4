# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.figures: what a picture of a migration is drawn from."""

import os
import tempfile
import unittest
from types import SimpleNamespace as Thing

from migrate import figures
from migrate.sample import Sample, ram_bytes

SAVED = {"pre_copy_bytes": 700, "stop_copy_bytes": 300, "pending_bytes": 0, "passes": 3, "dirty_pages": 0,
         "populated_pages": 16, "stop_copy_pages": 5}
SOURCE = """\
1@1000.5:vfio_migration_set_state (source) state 1
1@1001.5:vfio_migration_set_state (source) state 3
1@1002.0:migration_bitmap_sync_end dirty_pages 0
1@1004.0:migration_bitmap_sync_end dirty_pages 40
1@1006.0:vfio_migration_set_state (source) state 2
1@1006.1:migration_bitmap_sync_end dirty_pages 9
1@1006.9:vfio_migration_set_state (source) state 0
"""
DESTINATION = """\
2@1000.8:vfio_migration_set_state (destination) state 4
2@1007.0:vfio_migration_set_state (destination) state 1
"""


def status(passes, pre_copy, stop_copy=0):
    """The status of a device."""
    return SAVED | {"passes": passes, "pre_copy_bytes": pre_copy, "stop_copy_bytes": stop_copy}


def qemu(name, uuid, directory, trace, events):
    """A QEMU that has ended."""
    with open(os.path.join(directory, f"{name}.trace"), "w", encoding="utf-8") as file:
        file.write(trace)
    return Thing(name=name, devices=[Thing(uuid=uuid)], events=events,
                 path=lambda what: os.path.join(directory, f"{name}.{what}"))


def told(moment, where, verified):
    """A heartbeat of the guest."""
    return {"event": "beat", "at": where, "time": moment, "verified": verified}


class Figures(unittest.TestCase):
    def figures(self, **changes):
        ram = {"total": 64 * 4096, "page-size": 4096, "precopy-bytes": 900, "downtime-bytes": 100}
        result = Thing(info={"ram": ram}, devices=[Thing(saved=SAVED)], begin=1001.0, end=1007.5,
                       before={"verified": 3}, during={"verified": 5}, samples=[
                           # QEMU knows nothing yet, and the counters are those of an earlier save.
                           Sample(1001.05, (0, 0), [status(9, 9999)]),
                           Sample(1001.1, (0, 1000), [status(9, 9999)]),
                           Sample(1003.0, (400, 600), [status(0, 100)]),
                           Sample(1005.0, (800, 200), [status(2, 700)])])
        result.sum = lambda name, which="saved": 0
        events = [(1001.2, {"event": "MIGRATION", "data": {"status": "active"}}), (1006.0, {"event": "STOP"}),
                  (1007.0, {"event": "MIGRATION", "data": {"status": "completed"}})]
        messages = [told(1000.0, "A1", 3), told(1005.5, "A1", 5), told(1007.4, "B2", 6), told(1008.0, "B2", 9)]
        with tempfile.TemporaryDirectory() as directory:
            where = (qemu("A1", "source", directory, SOURCE, changes.get("events", events)),
                     qemu("B2", "destination", directory, DESTINATION, [(1006.95, {"event": "RESUME"})]))
            return figures.figures("a title", [("name", "value")], where, result, {"verified": 9},
                                   Thing(events=messages))

    def test_moments_are_relative_to_the_begin(self):
        found = self.figures()
        self.assertEqual((found["end"], found["stopped"]), (6.0, {"begin": 5.0, "end": 5.95}))
        self.assertEqual(found["silent"], {"begin": 4.5, "end": 6.4})
        self.assertEqual(found["jobs"]["samples"][0], {"at": -1.0, "jobs": 3})
        self.assertEqual([found["jobs"][name] for name in ("before", "during", "after")], [3, 2, 4])

    def test_states_follow_each_other_without_a_gap(self):
        for lane in self.figures()["lanes"]:
            states = lane["states"]
            for one, other in zip(states, states[1:]):
                self.assertEqual(one["end"], other["begin"], lane["name"])
            self.assertEqual(states[-1]["end"], 6.4, lane["name"])
        lanes = {lane["name"]: [state["state"] for state in lane["states"]] for lane in self.figures()["lanes"]}
        self.assertEqual(lanes, {"guest": ["runs", "stopped", "runs"], "migration": ["active", "completed"],
                                 "source device": ["RUNNING", "PRE_COPY", "STOP_COPY", "STOP"],
                                 "destination device": ["RESUMING", "RUNNING"]})

    def test_passes_of_guest_ram(self):
        passes = self.figures()["memories"][0]["passes"]
        self.assertEqual([(one["dirty_pages"], one["stopped"]) for one in passes],
                         [(64, False), (40, False), (9, True)])
        # 600 bytes by the begin of the second pass, 910 by that of the third, 1000 at the end.
        self.assertEqual([one["bytes"] for one in passes], [600, 310, 90])

    def test_samples_begin_with_what_is_left(self):
        self.assertEqual(self.figures()["memories"][0]["samples"][0], {"at": 0.1, "bytes": 0, "left": 1000})

    def test_samples_of_an_earlier_save_are_left_out(self):
        device = self.figures()["memories"][1]
        self.assertEqual([sample["bytes"] for sample in device["samples"]], [100, 700, 1000])
        self.assertEqual((device["name"], device["stopped_pages"]), ("device state", 5))

    def test_a_migration_without_events_has_no_downtime(self):
        self.assertNotIn("stopped", self.figures(events=[]))

    def test_bytes_of_guest_ram(self):
        self.assertEqual(ram_bytes({}), 0)
        self.assertEqual(ram_bytes({"precopy-bytes": 1, "downtime-bytes": 2, "transferred": 99}), 3)


if __name__ == "__main__":
    unittest.main()
