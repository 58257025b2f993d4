# SPDX-License-Identifier: GPL-2.0
"""Moves a running guest between two QEMUs; scripts/migrate says how it is used.

This runs in the virtual machine, inside the build environment.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import consoles  # noqa: E402
import report  # noqa: E402
import suite  # noqa: E402
from device import Module  # noqa: E402
from scene import Scene, keep  # noqa: E402
from settings import Settings  # noqa: E402
from version import VERSIONS  # noqa: E402
from vmm import IMAGE  # noqa: E402
from wait import Trouble  # noqa: E402

WORK = "/tmp/scene"
OUT = "/out"


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/migrate")
    parser.add_argument("what", choices=("run", "test", "consoles"))
    parser.add_argument("--qemu", choices=VERSIONS, default="7.2")
    parser.add_argument("--irq", choices=("intx", "msi", "msix"), default="msix")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--size", default="16M", help="memory of each device")
    parser.add_argument("--memory", default="256M", help="memory of the guest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-mmap", action="store_true", help="the data section of v1 cannot be mapped")
    parser.add_argument("--module", help="another build of the module")
    parser.add_argument("--trips", type=int, default=1, help="round trips of the test of them")
    parser.add_argument("--only", help="only the tests whose names match")
    return parser.parse_args()


async def run(options, module):
    """The demonstration."""
    settings = Settings(qemu=options.qemu, irq=options.irq, devices=options.devices, size=options.size,
                        memory=options.memory, seed=options.seed)
    parameters = {"mmap_staging": 0} if options.no_mmap else {}
    module.load(**({"path": options.module} if options.module else {}), **parameters)
    show = report.Show()
    show.say("scene", settings.words())
    directory = f"{WORK}/run"
    try:
        async with Scene(settings, directory, show) as scene:
            show.say("guest", "boots")
            await scene.boot()
            await scene.guest.work(scene.running, 8)
            result = await scene.migrate(beats=8)
            last = await scene.end()
            source, destination, _ = scene.results[0]
            report.show_timeline(source, destination, result, scene.guest)
            rows = report.table(source, result, last)
            report.show_table(f"{settings.words()}{', data section not mapped' if options.no_mmap else ''}", rows)
            with open(f"{directory}/result.json", "w", encoding="utf-8") as file:
                json.dump({"info": result.info, "rows": dict(rows),
                           "devices": [vars(device) for device in result.devices]}, file, indent=1)
            print(f"\n  every byte as it must be: {last['verified']} jobs verified, the guest's kernel log is clean")
    finally:
        keep(directory, OUT)


async def main():
    options = arguments()
    os.makedirs(WORK, exist_ok=True)
    os.makedirs(IMAGE)
    for name in ("vmlinuz", "initrd", "append"):
        shutil.copyfile(f"/image/{name}", f"{IMAGE}/{name}")
    module = Module()
    try:
        if options.what == "test":
            return await suite.run(options, module, WORK, OUT)
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
