# SPDX-License-Identifier: GPL-2.0
"""Interactive use: shows the guest and both QEMUs, and takes commands."""

import asyncio
import json
import os
import sys

from migrate import report
from migrate.fixture import Fixture, keep
from migrate.settings import chosen
from migrate.wait import Trouble

HELP = """\
  migrate        migrate the guest to the other side
  check          make the guest verify all data
  status         print the migration status of the devices
  table          print the timeline and the figures of the last migration
  console        print the last lines of the guest's kernel log
  qmp CMD [ARGS] send a command, with arguments as JSON, to the guest's QEMU
  shell CMD      run a command in the virtual machine
  end            make the guest verify all data and power off, and leave
{directory} has the monitors, consoles and logs of both QEMUs."""


class Hand(report.Show):
    """Prints all events of the guest, with the side."""

    def guest(self, event):
        if event["event"] != "beat" or self.now_and_then():
            words = {name: value for name, value in event.items() if name not in ("at", "time")}
            print(f"\r  {event['at']}> {json.dumps(words)}", flush=True)


async def perform(fixture, line):
    """Runs a command. Returns whether it was the last one."""
    word, _, rest = line.strip().partition(" ")
    qemu = fixture.running
    if word == "migrate":
        result = await fixture.migrate()
        print(f"  {result.info['total-time']} ms in total, {result.info['downtime']} ms downtime")
    elif word == "check":
        await fixture.guest.verify(qemu)
    elif word == "status":
        for side, devices in fixture.sides.items():
            for device in devices:
                print(f"  {side}: " + " ".join(f"{name}={value}" for name, value in device.status().items()))
    elif word == "table" and fixture.results:
        source, destination, result = fixture.results[-1]
        report.show_timeline(source, destination, result, fixture.guest)
        report.show_table(fixture.settings.words(), report.table(source, result, fixture.guest.totals))
    elif word == "console":
        for each in fixture.qemus[-2:]:
            with open(each.path("console.log"), encoding="utf-8", errors="replace") as file:
                for text in file.read().splitlines()[-12:]:
                    print(f"  {each.name}| {text}")
    elif word == "qmp":
        command, _, given = rest.partition(" ")
        print(json.dumps(await qemu.execute(command, **json.loads(given or "{}")), indent=1))
    elif word == "shell":
        await (await asyncio.create_subprocess_shell(rest)).wait()
    elif word == "end":
        print(f"  {await fixture.end()}")
        return True
    elif word:
        print(HELP.format(directory=fixture.directory))
    return False


async def run(options, module, work, out):
    """Runs commands until `end` or the end of the input."""
    settings = chosen(options)
    module.load((options.device,), **({"mmap_data_section": 0} if options.no_mmap else {}))
    show = Hand()
    show.say("settings", settings.words())
    directory = os.path.join(work, "consoles")
    try:
        async with Fixture(settings, directory, show) as fixture:
            await fixture.boot()
            print(HELP.format(directory=directory), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                try:
                    if await perform(fixture, line):
                        return
                except (Trouble, ValueError) as trouble:
                    print(f"  {trouble}")
    finally:
        keep(directory, out)
