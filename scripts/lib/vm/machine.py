# SPDX-License-Identifier: GPL-2.0
"""Runs a command in a virtual machine; scripts/vm --help describes the options.

Runs in the build root, next to QEMU. Waits for events (output, a mark in the kernel
log, the exit of QEMU), never for a fixed time.
"""

import argparse
import fcntl
import os
import re
import shlex
import shutil
import signal
import sys
import termios
import time

from trouble import is_trouble
from vm import network, qemu, uml
from vm.initramfs import Initramfs, Modules, module_depends
from vm.options import shared

ALWAYS = ["vfio", "vfio_iommu_type1", "mdev"]

# The modules whose data races are trouble, and the depth up to which they must appear in
# one of the two traces. The kernel has data races elsewhere.
PARTS = re.compile(r"\[(?:mdma|mdev|vfio\w*)\]")
NEAR = 4

# How often to boot if the emulation fails before init.
BOOTS = 3


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="scripts/vm", add_help=False)
    for name in ("kernel", "modules", "accel", "log", "build-root"):
        parser.add_argument("--" + name, required=True)
    for name in ("module", "load", "file", "share", "env", "append", "qemu", "allow-log"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("--out")
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--cpus")
    parser.add_argument("--cpu", default=None)
    parser.add_argument("--swap", default="")
    parser.add_argument("--stop")
    parser.add_argument("--secure-boot")
    parser.add_argument("--network")
    parser.add_argument("--limit", type=float, default=900)
    for name in ("root", "shell", "quiet"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument("command", nargs="*")
    parsed = parser.parse_args()
    parsed.shell = parsed.shell or not parsed.command
    parsed.backend = uml if parsed.accel == "uml" else qemu
    parsed.cpus = parsed.cpus or parsed.backend.CPUS
    return parsed


def terminal_size():
    """Returns rows and columns."""
    size = shutil.get_terminal_size((100, 40))
    return size.lines, size.columns


def build_initramfs(options, path):
    """Writes the initramfs, and returns the kernel's release."""
    modules = Modules(options.modules)
    archive = Initramfs(path)
    here = os.path.dirname(os.path.abspath(__file__))
    archive.file("bin/busybox", os.path.join(options.build_root, "bin/busybox"))
    archive.file("init", os.path.join(here, "init"))

    wanted = [*ALWAYS, *options.load]
    native = options.backend is uml
    if (options.out or options.root or options.share) and not native:
        wanted += ["9pnet_virtio", "9p"]
    if options.root:
        wanted += ["overlay"]
    if options.swap:
        wanted += ["zram"]
    if options.network:
        wanted += ["virtio_net"]
    for ko in options.module:
        wanted += [name for name in module_depends(ko)
                   if not any(os.path.basename(other) == name + ".ko" for other in options.module)]
    order = modules.closure(wanted)
    names = []
    for name in order:
        # Uncompressed, at the path that modprobe expects.
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
        f"{guest} {host if native else tag}\n" for tag, host, guest in shared(options)).encode())

    rows, columns = terminal_size()
    settings = {
        "HOSTFS": "1" if native else "",
        "OUT": (options.out if native else "out") if options.out else "",
        "ROOT": "1" if options.root else "",
        "SWAP": options.swap,
        "ADDRESS": network.address(options.network) if options.network else "",
        "SHELL_WANTED": "1" if options.shell else "",
        "TTY": "1" if sys.stdout.isatty() else "",
        "ROWS": rows,
        "COLS": columns,
    }
    archive.data("etc/vm/settings", "".join(
        f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()).encode())
    script = "".join(
        f"export {pair.partition('=')[0]}={shlex.quote(pair.partition('=')[2])}\n"
        for pair in [f"TERM={os.environ.get('TERM', 'dumb')}", *options.backend.ENVIRONMENT, *options.env])
    script += "exec " + (shlex.join(options.command) if options.command else "sh -i") + "\n"
    archive.data("etc/vm/command", script.encode())
    archive.data("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.data("etc/group", b"root:x:0:\n")
    archive.data("etc/hosts", b"127.0.0.1 localhost\n")
    archive.finish()
    return modules.release


class Tail:
    """A file that grows."""

    def __init__(self, path):
        open(path, "wb").close()
        self.file = open(path, "rb")

    def read(self):
        """Returns what was added since the last call."""
        return self.file.read()


class Log:
    """The kernel log while it grows: its lines, the marks of init, and trouble."""

    def __init__(self, path, allow):
        self.tail = Tail(path)
        self.allow = [re.compile(pattern) for pattern in allow]
        self.rest = b""
        self.lines = []
        self.started = False
        self.running = False
        self.suspended = False
        self.status = None
        self.panicked = False
        self.problems = []
        self.trouble = []
        self.failing = False
        self.shortage = None
        self.race = None
        self.frames = 0

    def poll(self):
        """Reads new lines, and returns whether there were any."""
        data = self.tail.read()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for raw in lines:
            self.line(raw.decode(errors="replace").rstrip("\r"))
        return bool(data)

    def is_misemulated(self):
        """Returns whether the kernel died of a breakpoint before init, so before any module was loaded.

        The kernel changes its own code by way of a breakpoint (static keys). QEMU's emulation of several
        processors sometimes runs the breakpoint when the kernel has removed it.
        """
        return self.panicked and not self.started and any("Oops: int3:" in line for line in self.lines)

    def line(self, line):
        """Takes a line."""
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
        if "PM: suspend " in line:
            self.suspended = "PM: suspend entry" in line
        # Where a test injects allocation failures, their reports and traces are not trouble.
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
        if "BUG: KCSAN:" in line:
            # The traces that follow tell whether the race is in PARTS.
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
        """Records a line as trouble unless --allow-log matches it."""
        if not any(pattern.search(self.lines[at]) for pattern in self.allow):
            self.trouble.append(at)


class Wakeup:
    """The serial port that wakes a suspended machine up: each byte is an interrupt."""

    # Seconds between two bytes. A byte that comes before the machine sleeps does nothing.
    PAUSE = 1

    def __init__(self, path):
        os.mkfifo(path)
        self.end = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.last = time.monotonic()

    def poll(self, suspended):
        """Sends a byte while the machine is suspended."""
        if suspended and time.monotonic() - self.last > self.PAUSE:
            self.last = time.monotonic()
            os.write(self.end, b"x")

    def close(self):
        """Closes the port."""
        os.close(self.end)


class Machine:
    """A virtual machine and the files of its run."""

    def __init__(self, options):
        self.options = options
        stamp = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}-{time.time_ns() % 1000000}"
        self.directory = os.path.join(options.log, stamp)
        os.makedirs(self.directory)
        # Locked while this runs: see forget_old_runs().
        self.lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.forget_old_runs()
        self.begin = time.monotonic()
        self.stop = re.compile(options.stop.encode()) if options.stop else None
        self.stopped = None
        self.unfinished = b""
        self.misemulated = False

    def forget_old_runs(self):
        """Removes all but the last 30 runs, and updates the link to the latest."""
        runs = sorted(name for name in os.listdir(self.options.log) if re.match(r"\d{8}-", name))
        for name in runs[:-30]:
            path = os.path.join(self.options.log, name)
            try:
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # It still runs, or another run is removing it.
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.close(directory)
        latest = os.path.join(self.options.log, "latest")
        link = f"{latest}.{os.getpid()}.{time.time_ns()}"
        os.symlink(os.path.basename(self.directory), link)
        os.replace(link, latest)

    def seconds(self):
        """Returns the time since the start."""
        return time.monotonic() - self.begin

    def say(self, text):
        """Prints progress."""
        if not self.options.quiet:
            print(f"  {'vm':<9} {text}", file=sys.stderr, flush=True)

    def complain(self, text):
        """Prints an error."""
        print(f"\nvm: {text}", file=sys.stderr, flush=True)

    def show(self, lines):
        """Prints lines of a log."""
        for line in lines:
            print(f"  | {line}", file=sys.stderr)
        sys.stderr.flush()

    def forward(self, output):
        """Prints new output of the command, and returns whether there was any."""
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
        """Runs the virtual machine, and returns the exit status."""
        options = self.options
        problem = options.backend.check(options)
        if problem:
            self.complain(problem)
            return 125
        release = build_initramfs(options, f"{self.directory}/initramfs")
        self.say(f"{release}, {options.cpus} cpus, {options.memory}, {options.accel}")
        log = Log(f"{self.directory}/console", options.allow_log)
        output = None if options.shell else Tail(f"{self.directory}/output")
        with open(f"{self.directory}/command", "w", encoding="utf-8") as out:
            out.write(shlex.join(options.backend.command(options, self.directory)) + "\n")
        with open(f"{self.directory}/qemu", "wb") as errors:
            saved = self.raw_terminal()
            wakeup = Wakeup(f"{self.directory}/wakeup")
            process, writers = options.backend.start(options, self.directory, errors)
            try:
                expired = self.watch(process, log, output, wakeup)
            except KeyboardInterrupt:
                self.complain("interrupted")
                return 130
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for writer in writers:
                    writer.wait()
                wakeup.close()
                if saved:
                    termios.tcsetattr(0, termios.TCSADRAIN, saved)
        # Read what arrived since the last poll.
        log.poll()
        self.forward(output)
        os.unlink(f"{self.directory}/initramfs")
        return self.judge(process.returncode, log, expired)

    def raw_terminal(self):
        """Returns the terminal's settings if there is a shell, which has its own terminal."""
        if not self.options.shell or not os.isatty(0):
            return None
        saved = termios.tcgetattr(0)
        self.say("exit or Ctrl-D ends the virtual machine")
        return saved

    def watch(self, process, log, output, wakeup):
        """Waits until the machine exits or must be killed. Returns whether the limit was reached."""
        told = False
        silent_since = time.monotonic()
        while True:
            ended = process.poll() is not None
            moved = log.poll()
            moved = self.forward(output) or moved
            wakeup.poll(log.suspended)
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
        """Prints what went wrong, and returns the exit status."""
        where = f"kernel log: {self.directory}/console"
        if log.status is None:
            self.misemulated = self.options.accel.startswith("tcg") and log.is_misemulated()
            awaited = ("the command to end" if log.running else
                       "the set-up by init" if log.started else "the kernel to reach init")
            if self.stopped:
                self.complain(f"stopped, because the command printed: {self.stopped}")
            elif expired:
                self.complain(f"no output for {self.options.limit:.0f} s while waiting for {awaited}")
            elif log.panicked:
                self.complain(f"the kernel panicked while waiting for {awaited}")
            else:
                self.complain(f"{self.options.backend.NAME} exited with {returncode} while waiting for {awaited}")
                with open(f"{self.directory}/qemu", encoding="utf-8", errors="replace") as file:
                    messages = file.read()
                self.show(messages.splitlines()[-10:])
                advice = self.options.backend.explain(messages)
                if advice:
                    self.complain(advice)
            self.show(log.lines[max(0, min(log.trouble[:1] or [len(log.lines)]) - 3):][:60]
                      if log.panicked else log.lines[-30:])
            print(f"  {where}", file=sys.stderr)
            return 124 if expired else 125
        if log.problems:
            self.complain("; ".join(log.problems))
        if log.trouble:
            self.complain(f"the kernel log reports a fault (matching lines: {len(log.trouble)}):")
            first = log.trouble[0]
            self.show(log.lines[max(0, first - 2):first + 40])
            print(f"  {where}", file=sys.stderr)
            return log.status or 126
        self.say(f"exit {log.status} after {self.seconds():.1f} s")
        if log.problems:
            print(f"  {where}", file=sys.stderr)
        return log.status


def run(options):
    """Runs a machine, and returns its exit status. Starts over if the emulation failed before init."""
    for left in reversed(range(BOOTS)):
        machine = Machine(options)
        status = machine.run()
        if not machine.misemulated or not left:
            break
        machine.complain("the emulation ran a breakpoint that the kernel had removed; booting again")
    return status


def terminate(_signal, _frame):
    """Ends the run after a signal."""
    raise KeyboardInterrupt


def main():
    """Runs the command and returns its exit status."""
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    try:
        return run(arguments())
    except (LookupError, OSError) as error:
        print(f"\nvm: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
