# SPDX-License-Identifier: GPL-2.0
"""Runs a command in a virtual machine; scripts/vm --help says how it is used.

This part runs inside the build root, next to QEMU. It waits for events (output,
a mark in the kernel log, the end of QEMU), never for a time to pass.
"""

import argparse
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time

from trouble import is_trouble
from vm.initramfs import Initramfs, Modules, module_depends

ALWAYS = ["vfio", "vfio_iommu_type1", "mdev"]

# The parts of the kernel whose data races are trouble, and how near to the race they
# have to be in one of the two traces: the kernel has some of its own.
PARTS = re.compile(r"\[(?:mdma|mdev|vfio\w*)\]")
NEAR = 4

COMMAND_LINE = (
    "console=ttyS0 ignore_loglevel printk.devkmsg=on panic=-1 oops=panic "
    # A busy host must not look like a broken or hung guest.
    "no_timer_check rcupdate.rcu_cpu_stall_timeout=300 sysctl.kernel.watchdog_thresh=60 "
    "sysctl.kernel.hung_task_timeout_secs=300 "
    "tsc=reliable random.trust_cpu=on mitigations=off")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/vm", add_help=False)
    for name in ("kernel", "modules", "accel", "log", "build-root"):
        parser.add_argument("--" + name, required=True)
    for name in ("module", "load", "file", "share", "env", "append", "qemu", "allow-log"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("--out")
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--cpus", default="2")
    parser.add_argument("--cpu", default=None)
    parser.add_argument("--swap", default="")
    parser.add_argument("--stop")
    parser.add_argument("--limit", type=float, default=900)
    for name in ("root", "shell", "quiet"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument("command", nargs="*")
    parsed = parser.parse_args()
    parsed.shell = parsed.shell or not parsed.command
    return parsed


def terminal_size():
    size = shutil.get_terminal_size((100, 40))
    return size.lines, size.columns


def shared(options):
    """Of each --share: its tag, the host's directory, the guest's."""
    return [(f"share{number}", *pair.rsplit(":", 1)) for number, pair in enumerate(options.share)]


def build_initramfs(options, path):
    """Writes the initramfs; returns the kernel's release."""
    modules = Modules(options.modules)
    archive = Initramfs(path)
    here = os.path.dirname(os.path.abspath(__file__))
    archive.file("bin/busybox", os.path.join(options.build_root, "bin/busybox"))
    archive.file("init", os.path.join(here, "init"))

    wanted = [*ALWAYS, *options.load]
    if options.out or options.root or options.share:
        wanted += ["9pnet_virtio", "9p"]
    if options.root:
        wanted += ["overlay"]
    if options.swap:
        wanted += ["zram"]
    for ko in options.module:
        wanted += [name for name in module_depends(ko)
                   if not any(os.path.basename(other) == name + ".ko" for other in options.module)]
    order = modules.closure(wanted)
    names = []
    for name in order:
        # Uncompressed, in the place the kernel's own modprobe expects it.
        where = re.sub(r"\.(xz|zst|gz)$", "", modules.paths[name])
        names.append(f"/lib/modules/{modules.release}/{where}")
        archive.data(names[-1], modules.read(name))
    archive.data("etc/vm/modules", "".join(name + "\n" for name in names).encode())

    files = []
    for ko in options.module:
        files.append((f"/lib/modules/extra/{os.path.basename(ko)}", ko))
    for pair in options.file:
        host, _, guest = pair.rpartition(":")
        files.append((guest, host))
    for guest, host in files:
        archive.file(guest, host)
    archive.data("etc/vm/files", "".join(guest + "\n" for guest, _ in files).encode())

    archive.data("etc/vm/shares", "".join(
        f"{tag} {guest}\n" for tag, _, guest in shared(options)).encode())

    rows, columns = terminal_size()
    settings = {
        "OUT": "1" if options.out else "",
        "ROOT": "1" if options.root else "",
        "SWAP": options.swap,
        "SHELL_WANTED": "1" if options.shell else "",
        "TTY": "1" if sys.stdout.isatty() else "",
        "ROWS": rows,
        "COLS": columns,
    }
    archive.data("etc/vm/settings", "".join(
        f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()).encode())
    script = "".join(
        f"export {pair.partition('=')[0]}={shlex.quote(pair.partition('=')[2])}\n"
        for pair in [f"TERM={os.environ.get('TERM', 'dumb')}", *options.env])
    script += "exec " + (shlex.join(options.command) if options.command else "sh -i") + "\n"
    archive.data("etc/vm/command", script.encode())
    archive.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.data("etc/group", b"root:x:0:\n")
    archive.data("etc/hosts", b"127.0.0.1 localhost\n")
    archive.finish()
    return modules.release


def qemu_command(options, directory):
    cpu = options.cpu or ("host" if options.accel == "kvm" else "max,la57=off")
    append = " ".join([COMMAND_LINE, *options.append])
    accel = "tcg,thread=multi" if options.accel == "tcg" else options.accel
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "pc", "-accel", accel, "-cpu", cpu, "-smp", options.cpus, "-m", options.memory,
        "-kernel", options.kernel, "-initrd", f"{directory}/initramfs", "-append", append,
        "-chardev", f"file,id=console,path={directory}/console", "-serial", "chardev:console",
    ]
    if options.shell:
        command += ["-chardev", "stdio,id=output,signal=off"]
    else:
        command += ["-chardev", f"file,id=output,path={directory}/output"]
    command += ["-serial", "chardev:output"]
    shares = []
    if options.out:
        shares += [("out", options.out, "")]
    if options.root:
        shares += [("root", options.build_root, ",readonly=on"), ("modules", options.modules, ",readonly=on")]
    shares += [(tag, host, ",readonly=on") for tag, host, _ in shared(options)]
    for tag, path, more in shares:
        command += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"]
    return command + options.qemu


class Tail:
    """What was added to a file since it was last looked at."""

    def __init__(self, path):
        open(path, "wb").close()
        self.file = open(path, "rb")

    def read(self):
        return self.file.read()


class Log:
    """The kernel log as it grows: its lines, its marks, its trouble."""

    def __init__(self, path, allow):
        self.tail = Tail(path)
        self.allow = [re.compile(pattern) for pattern in allow]
        self.rest = b""
        self.lines = []
        self.started = False
        self.running = False
        self.status = None
        self.panicked = False
        self.problems = []
        self.trouble = []
        self.failing = False
        self.shortage = None
        self.oom = None
        self.race = None
        self.frames = 0

    def poll(self):
        """Reads what there is; whether there was any."""
        data = self.tail.read()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for raw in lines:
            self.line(raw.decode(errors="replace").rstrip("\r"))
        return bool(data)

    def line(self, line):
        self.lines.append(line)
        mark = re.search(r"(?:^|\] )vm: (.*)$", line)
        if mark:
            words = mark.group(1)
            ended = re.fullmatch(r"command exited (\d+)", words)
            if words == "init":
                self.started = True
            elif words == "running":
                self.running = True
            elif ended:
                self.status = int(ended.group(1))
            elif not words.startswith("kmemleak:"):
                self.problems.append(words)
        if "Kernel panic" in line:
            self.panicked = True
        # Where allocations are made to fail, that one did is not trouble, nor how it was come to.
        test = re.search(r"selftests: ([a-z0-9_]+)\.[a-z0-9_]+$", line)
        if test:
            self.failing = test.group(1) == "fail_nth"
        if " invoked oom-killer: " in line or (
            self.failing and re.search("vmalloc error: |page allocation failure: ", line)
        ):
            self.shortage = len(self.lines)
            return
        if self.failing and "kmemleak: Cannot allocate a " in line:
            return
        if self.shortage and len(self.lines) < self.shortage + 20 and line.endswith("Call Trace:"):
            return
        # Who is killed, the kernel says after the trace of who needed memory.
        if "invoked oom-killer: " in line:
            self.oom = len(self.lines)
        if self.oom and len(self.lines) < self.oom + 20 and line.endswith("Call Trace:"):
            self.oom = None
            return
        if "BUG: KCSAN:" in line:
            # Whose it is comes with the traces.
            self.race = len(self.lines) - 1
            return
        if self.race is not None:
            self.frames = 0 if re.search(" by (?:task|interrupt)", line) else self.frames + 1
            if self.frames <= NEAR and PARTS.search(line):
                self.found(self.race)
                self.race = None
            elif line.endswith("====="):
                self.race = None
        if (self.started or self.panicked) and is_trouble(line):
            self.found(len(self.lines) - 1)

    def found(self, at):
        """A line that is trouble, unless it is an exception."""
        if not any(pattern.search(self.lines[at]) for pattern in self.allow):
            self.trouble.append(at)


class Machine:
    def __init__(self, options):
        self.options = options
        stamp = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}-{time.time_ns() % 1000000}"
        self.directory = os.path.join(options.log, stamp)
        os.makedirs(self.directory)
        # Locked for as long as this runs: see forget_old_runs().
        self.lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.forget_old_runs()
        self.begin = time.monotonic()
        self.stop = re.compile(options.stop.encode()) if options.stop else None
        self.stopped = None
        self.unfinished = b""

    def forget_old_runs(self):
        runs = sorted(name for name in os.listdir(self.options.log) if re.match(r"\d{8}-", name))
        for name in runs[:-30]:
            path = os.path.join(self.options.log, name)
            try:
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # Its machine still runs, or another one is about to forget it.
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.close(directory)
        latest = os.path.join(self.options.log, "latest")
        link = f"{latest}.{os.getpid()}.{time.time_ns()}"
        os.symlink(os.path.basename(self.directory), link)
        os.replace(link, latest)

    def seconds(self):
        return time.monotonic() - self.begin

    def say(self, text):
        if not self.options.quiet:
            print(f"  {'vm':<9} {text}", file=sys.stderr, flush=True)

    def complain(self, text):
        print(f"\nvm: {text}", file=sys.stderr, flush=True)

    def show(self, lines):
        for line in lines:
            print(f"  | {line}", file=sys.stderr)
        sys.stderr.flush()

    def forward(self, output):
        data = output.read() if output else b""
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if data and self.stop:
            *lines, self.unfinished = (self.unfinished + data).split(b"\n")
            for line in lines:
                if self.stop.search(line):
                    self.stopped = line.decode(errors="replace")
        return bool(data)

    def run(self):
        options = self.options
        release = build_initramfs(options, f"{self.directory}/initramfs")
        self.say(f"{release}, {options.cpus} cpus, {options.memory}, {options.accel}")
        log = Log(f"{self.directory}/console", options.allow_log)
        output = None if options.shell else Tail(f"{self.directory}/output")
        command = qemu_command(options, self.directory)
        with open(f"{self.directory}/command", "w", encoding="utf-8") as out:
            out.write(shlex.join(command) + "\n")
        with open(f"{self.directory}/qemu", "wb") as errors:
            saved = self.raw_terminal()
            qemu = subprocess.Popen(
                command, stderr=errors, stdin=None if options.shell else subprocess.DEVNULL)
            try:
                expired = self.watch(qemu, log, output)
            except KeyboardInterrupt:
                self.complain("interrupted")
                return 130
            finally:
                if qemu.poll() is None:
                    qemu.kill()
                qemu.wait()
                if saved:
                    termios.tcsetattr(0, termios.TCSADRAIN, saved)
        # What arrived between the last look and the end.
        log.poll()
        self.forward(output)
        os.unlink(f"{self.directory}/initramfs")
        return self.judge(qemu.returncode, log, expired)

    def raw_terminal(self):
        """For the shell: keys go to the guest, which has a terminal of its own."""
        if not self.options.shell or not os.isatty(0):
            return None
        saved = termios.tcgetattr(0)
        self.say("exit or Ctrl-D ends the machine")
        return saved

    def watch(self, qemu, log, output):
        """Until QEMU ends or has to be ended; whether that was for the limit."""
        told = False
        silent_since = time.monotonic()
        while True:
            ended = qemu.poll() is not None
            moved = log.poll()
            moved = self.forward(output) or moved
            if log.running and not told:
                told = True
                what = shlex.join(self.options.command) or "a shell"
                self.say(f"up after {self.seconds():.1f} s: {what if len(what) < 100 else what[:97] + '...'}")
            if ended or self.stopped:
                return False
            if moved or self.options.shell:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > self.options.limit:
                return True
            time.sleep(0.02)

    def judge(self, returncode, log, expired):
        """What it all means: the exit status."""
        where = f"the kernel's log: {self.directory}/console"
        if log.status is None:
            awaited = ("the command to end" if log.running else
                       "init to set things up" if log.started else "the kernel to reach init")
            if self.stopped:
                self.complain(f"stopped, for the command said: {self.stopped}")
            elif expired:
                self.complain(f"nothing happened for {self.options.limit:.0f} s while waiting for {awaited}")
            elif log.panicked:
                self.complain(f"the kernel panicked while waiting for {awaited}")
            else:
                self.complain(f"QEMU ended (exit {returncode}) while waiting for {awaited}")
                with open(f"{self.directory}/qemu", encoding="utf-8", errors="replace") as errors:
                    self.show(errors.read().splitlines()[-10:])
            self.show(log.lines[max(0, min(log.trouble[:1] or [len(log.lines)]) - 3):][:60]
                      if log.panicked else log.lines[-30:])
            print(f"  {where}", file=sys.stderr)
            return 124 if expired else 125
        if log.problems:
            self.complain("; ".join(log.problems))
        if log.trouble:
            self.complain(f"what should not be in the kernel log (lines that match: {len(log.trouble)}):")
            first = log.trouble[0]
            self.show(log.lines[max(0, first - 2):first + 40])
            print(f"  {where}", file=sys.stderr)
            return log.status or 126
        self.say(f"exit {log.status} after {self.seconds():.1f} s")
        if log.problems:
            print(f"  {where}", file=sys.stderr)
        return log.status


def terminate(_signal, _frame):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    try:
        return Machine(arguments()).run()
    except (LookupError, OSError) as error:
        print(f"\nvm: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
