# SPDX-License-Identifier: GPL-2.0
"""Migrates a running guest between two QEMUs; scripts/migrate --help describes the options.

Runs in the virtual machine, in the build root.
"""

import argparse
import asyncio
import json
import os
import sys
import traceback

from migrate import consoles
from migrate import report
from migrate import soak
from migrate import suite
from migrate.figures import figures
from migrate.device import DRIVERS, Module
from migrate.fixture import Fixture, keep
from migrate.settings import chosen
from migrate.version import VERSIONS
from migrate.qemu import copy_image
from migrate.wait import Trouble

WORK = "/tmp/migrate"
OUT = "/out"


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="scripts/migrate")
    parser.add_argument("what", choices=("run", "test", "consoles", "soak"))
    parser.add_argument("--qemu", choices=VERSIONS, default="7.2")
    parser.add_argument("--irq", choices=("intx", "msi", "msix"), help="default: msix, and intx for mserial")
    parser.add_argument("--device", choices=DRIVERS, default="mdma")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--size", help="memory of each device")
    parser.add_argument("--memory", help="memory of the guest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-mmap", action="store_true", help="make the data section of v1 not mappable")
    parser.add_argument("--module", help="use this build of the module")
    parser.add_argument("--trips", type=int, default=1, help="number of round trips in the tests")
    parser.add_argument("--migrations", type=int, default=2, help="migrations with each mutated module")
    parser.add_argument("--minutes", type=int, help="run only what takes about so long")
    parser.add_argument("--turn", type=int, default=0, help="which part of the tests --minutes chooses")
    parser.add_argument("--part", default="1/1", help="run only part K/N of the tests")
    parser.add_argument("--hours", type=float, default=1, help="how long a soak takes")
    parser.add_argument("--guests", type=int, help="how many guests a soak has, instead of --hours")
    parser.add_argument("--only", help="run only tests whose names match")
    return parser.parse_args()


async def run(options, module):
    """Migrates once, and prints a timeline and figures."""
    settings = chosen(options)
    parameters = {"mmap_data_section": 0} if options.no_mmap else {}
    module.load((options.device,), options.module, **parameters)
    show = report.Show()
    show.say("settings", settings.words())
    directory = f"{WORK}/run"
    try:
        async with Fixture(settings, directory, show) as fixture:
            show.say("guest", "boots")
            await fixture.boot()
            await fixture.guest.work(fixture.running, 8)
            result = await fixture.migrate(beats=8)
            last = await fixture.end()
            source, destination, _ = fixture.results[0]
            report.show_timeline(source, destination, result, fixture.guest)
            rows = report.table(source, result, last)
            title = f"{settings.words()}{', data section not mapped' if options.no_mmap else ''}"
            report.show_table(title, rows)
            with open(f"{directory}/result.json", "w", encoding="utf-8") as file:
                json.dump({"info": result.info, "rows": dict(rows),
                           "devices": [vars(device) for device in result.devices]}, file, indent=1)
            with open(f"{directory}/figures.json", "w", encoding="utf-8") as file:
                json.dump(figures(title, rows, (source, destination), result, last, fixture.guest), file, indent=1)
            print(f"\n  all data correct: {last['verified']} jobs verified, the guest's kernel log is clean")
    finally:
        keep(directory, OUT)


async def main():
    """Runs the command and returns its exit status."""
    options = arguments()
    os.makedirs(WORK, exist_ok=True)
    copy_image()
    module = Module()
    try:
        if options.what == "test":
            return await suite.run(options, module, WORK, OUT)
        if options.what == "soak":
            return await soak.Soak(options, module, WORK, OUT).run()
        if options.what == "consoles":
            await consoles.run(options, module, WORK, OUT)
        else:
            await run(options, module)
        return 0
    except Trouble as trouble:
        print(f"\nFAILED: {trouble}", flush=True)
        return 1
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc(file=sys.stdout)
        return 2
    finally:
        try:
            module.unload()
        except Trouble as trouble:
            print(f"FAILED: {trouble}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
