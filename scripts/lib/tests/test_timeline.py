# SPDX-License-Identifier: GPL-2.0
"""Tests of migrate.timeline: what each QEMU's trace looks like, and the rows of the passes."""

import tempfile
import unittest

from migrate.timeline import Trace, pass_rows

QEMU_7 = """\
621@1795269164.321463:vfio_migration_set_state (uuid) state 1
621@1795269165.5:vfio_migration_set_state (uuid) state 3
621@1795269166.5:vfio_migration_set_state (uuid) state 3
621@1795269167.0:migration_bitmap_sync_end dirty_pages 12
not a line of the trace
"""
QEMU_11 = """\
2026-11-26T11:00:00Z vfio_migration_set_device_state (uuid) state PRE_COPY
2026-11-26T11:00:01.500000Z vfio_container_query_dirty_bitmap container_fd=9 iova=0x0 dirty_pages=3
"""


class Traces(unittest.TestCase):
    def trace(self, text):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            return Trace(file.name)

    def test_states_of_v1_have_names_and_are_told_once(self):
        states = list(self.trace(QEMU_7).states(0))
        self.assertEqual([(uuid, state) for _, uuid, state in states], [("uuid", "RUNNING"), ("uuid", "PRE_COPY")])
        self.assertEqual(states[0][0], 1795269164.321463)

    def test_states_before_the_migration_are_left_out(self):
        self.assertEqual(len(list(self.trace(QEMU_7).states(1795269165))), 1)

    def test_dirty_pages(self):
        self.assertEqual(list(self.trace(QEMU_7).dirty(0, "migration_bitmap_sync_end")), [(1795269167.0, 12)])

    def test_iso_dates(self):
        trace = self.trace(QEMU_11)
        ((moment, _, state),) = trace.states(0)
        self.assertEqual(state, "PRE_COPY")
        self.assertEqual(list(trace.dirty(0, "vfio_container")), [(moment + 1.5, 3)])


class Passes(unittest.TestCase):
    def rows(self, passes, short=True):
        return pass_rows([(number, 100 - number) for number in range(1, passes + 1)], short)

    def each(self, *numbers):
        return [(number, f"pass {number}: {100 - number} dirty pages of the guest") for number in numbers]

    def test_the_passes_in_the_middle_are_one_row(self):
        self.assertEqual(self.rows(10), [
            *self.each(1, 2, 3),
            (4, "passes 4 to 7: 93 to 96 dirty pages of the guest in each"),
            *self.each(8, 9, 10)])

    def test_few_passes_stay(self):
        for passes in (0, 4, 7):
            self.assertEqual(self.rows(passes), self.each(*range(1, passes + 1)))

    def test_the_long_timeline_has_all(self):
        self.assertEqual(self.rows(50, short=False), self.each(*range(1, 51)))
