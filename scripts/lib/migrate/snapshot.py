# SPDX-License-Identifier: GPL-2.0
"""Snapshots of a guest in a qcow2 of its own."""

import os

from migrate import wait
from migrate.wait import Trouble

FILE, IMAGE, TAG = "snapshot-file", "snapshot-image", "now"


async def job(qemu, command, **arguments):
    """Runs a job to its end."""
    name = command
    await qemu.execute(command, job_id=name, **arguments)

    async def concluded():
        jobs = await qemu.execute("query-jobs")
        return next((one for one in jobs if one["id"] == name and one["status"] == "concluded"), None)

    ended = await wait.until(f"the job {name} of {qemu.name}", concluded, [qemu])
    await qemu.execute("job-dismiss", id=name)
    if "error" in ended:
        raise Trouble(f"{qemu.name}: {name}: {ended['error']}")


async def create(qemu):
    """Creates a qcow2 for snapshots."""
    path = qemu.path("qcow2")
    await job(qemu, "blockdev-create", options={"driver": "file", "filename": path, "size": 0})
    await qemu.execute("blockdev-add", driver="file", node_name=FILE, filename=path)
    await job(qemu, "blockdev-create", options={"driver": "qcow2", "file": FILE, "size": 1 << 20})
    await qemu.execute("blockdev-add", driver="qcow2", node_name=IMAGE, file=FILE)


async def save(qemu):
    """Saves a snapshot."""
    await job(qemu, "snapshot-save", tag=TAG, vmstate=IMAGE, devices=[IMAGE])


async def load(qemu):
    """Loads the snapshot. The guest is stopped then."""
    await job(qemu, "snapshot-load", tag=TAG, vmstate=IMAGE, devices=[IMAGE])


async def remove(qemu):
    """Removes the qcow2."""
    for node in (IMAGE, FILE):
        await qemu.execute("blockdev-del", node_name=node)
    os.remove(qemu.path("qcow2"))
