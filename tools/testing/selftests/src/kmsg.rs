// SPDX-License-Identifier: GPL-2.0

//! The kernel's log, read as it grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What no test may cause, wherever it stands in a line. Compared without case, with a space before the line.
const ALARMS: &[&str] = &[
    "warning:",
    " bug:",
    "oops",
    "kernel panic",
    "panicked at",
    "general protection",
    "unable to handle",
    " kasan: ",
    "ubsan",
    "kmemleak",
    "call trace:",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious rcu",
    "sleeping function called",
    "scheduling while atomic",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "bad page state",
    "blocked for more than",
    "soft lockup",
    "hard lockup",
    "detected stall",
    "self-detected stall",
    "still has locks held",
    "held lock freed",
    "page allocation failure",
    "has a memory leak",
    "kobject: (",
    "sysfs: cannot create duplicate",
];

/// The priority of `KERN_CRIT`: what is this bad or worse is an alarm whatever it says.
const KERN_CRIT: u32 = 2;

/// One record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// 0 emergency to 7 debug.
    pub(crate) priority: u32,
    /// The text, without continuation data.
    pub(crate) text: String,
    /// When it was read here, which is not before it was written.
    seen: Instant,
}

impl Line {
    /// Whether it says that the kernel found something wrong with itself.
    pub(crate) fn is_alarm(&self) -> bool {
        let text = format!(" {}", self.text.to_lowercase());
        // A control group that meets its limit says "Memory cgroup out of memory" instead.
        let out_of_memory = self.text.starts_with("Out of memory: ");
        self.priority <= KERN_CRIT
            || out_of_memory
            || ALARMS.iter().any(|alarm| text.contains(alarm))
    }
}

/// The log from the moment it was opened on.
pub(crate) struct Kmsg(Mutex<Inner>);

struct Inner {
    file: File,
    lines: Vec<Line>,
}

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Kmsg {
    /// Opens the log at its end.
    pub(crate) fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Kmsg(Mutex::new(Inner {
            file,
            lines: Vec::new(),
        })))
    }

    /// Writes a line of our own, so that the console shows what went on around others.
    pub(crate) fn note(&self, text: &str) {
        let inner = self.0.lock().unwrap();
        // The kernel may limit how much is written; nothing depends on it.
        let _ = (&inner.file).write_all(format!("<6>selftests: {text}\n").as_bytes());
    }

    /// The end of the log now.
    pub(crate) fn mark(&self) -> Mark {
        let mut inner = self.0.lock().unwrap();
        inner.pump();
        Mark(inner.lines.len())
    }

    /// The lines from `mark` on.
    pub(crate) fn since(&self, mark: Mark) -> Vec<Line> {
        let mut inner = self.0.lock().unwrap();
        inner.pump();
        inner.lines[mark.0..].to_vec()
    }

    /// How many of the lines read in the last `time` contain `text`.
    pub(crate) fn recent(&self, text: &str, time: Duration) -> usize {
        let mut inner = self.0.lock().unwrap();
        inner.pump();
        let recent = inner.lines.iter().rev();
        recent
            .take_while(|line| line.seen.elapsed() < time)
            .filter(|line| line.text.contains(text))
            .count()
    }
}

impl Inner {
    /// Takes in what has been logged.
    fn pump(&mut self) {
        let mut record = [0; 8192];
        loop {
            match (&self.file).read(&mut record) {
                Ok(len) => self.lines.extend(parse(&record[..len])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The oldest unread records were overwritten; reading goes on after the gap.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) => panic!("/dev/kmsg: {e}"),
            }
        }
    }
}

/// Parses `priority,sequence,time,flags;text`, which may be followed by lines of context.
fn parse(record: &[u8]) -> Option<Line> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    Some(Line {
        priority: priority & 7,
        text: text.lines().next().unwrap_or("").to_string(),
        seen: Instant::now(),
    })
}

/// Leaves out the first lines of reports of data races that neither VFIO, nor mdev, nor the module is near to: the
/// kernel has some of its own.
pub(crate) fn without_races_elsewhere(lines: Vec<Line>) -> Vec<Line> {
    let mut elsewhere = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.text.contains("BUG: KCSAN: ") {
            let report = lines[at + 1..].iter().map(|line| &line.text[..]);
            if !is_ours(report.take_while(|text| !text.ends_with("====="))) {
                elsewhere.push(at);
            }
        }
    }
    let numbered = lines.into_iter().enumerate();
    let rest = numbered.filter(|(at, _)| !elsewhere.contains(at));
    rest.map(|(_, line)| line).collect()
}

/// Whether a frame of one of our parts is among the first of one of the traces of a report.
fn is_ours<'a>(report: impl Iterator<Item = &'a str>) -> bool {
    const NEAR: usize = 4;
    let mut frames = 0;
    for text in report {
        frames += 1;
        if text.contains(" by task") || text.contains(" by interrupt") {
            frames = 0;
        }
        let ours = ["[mdma]", "[mdev]", "[vfio"];
        if frames <= NEAR && ours.iter().any(|part| text.contains(part)) {
            return true;
        }
    }
    false
}

/// Leaves out the heading of the trace that comes with each kill for memory: the line after it says whether a control
/// group was out of memory, or the machine, which is an alarm by itself.
pub(crate) fn without_kills(lines: Vec<Line>) -> Vec<Line> {
    /// Lines between the first and the trace, at most.
    const NEAR: usize = 20;
    let mut near = 0;
    let mut heading = |line: &Line| {
        near = match line.text.contains("invoked oom-killer: ") {
            true => NEAR,
            false => near - usize::from(near > 0),
        };
        near > 0 && line.text.trim() == "Call Trace:"
    };
    lines.into_iter().filter(|line| !heading(line)).collect()
}

/// Leaves out what says that an allocation failed or that the OOM killer ran, and how it was come to.
pub(crate) fn without_shortages(lines: Vec<Line>) -> Vec<Line> {
    /// Lines between the first and the trace, at most.
    const NEAR: usize = 20;
    const SHORTAGES: [&str; 3] = [
        "vmalloc error: ",
        "page allocation failure: ",
        " invoked oom-killer: ",
    ];
    let mut near = 0;
    lines
        .into_iter()
        .filter(|line| {
            let text = &line.text;
            if SHORTAGES.iter().any(|shortage| text.contains(shortage)) {
                near = NEAR;
                return false;
            }
            if text.contains("kmemleak: Cannot allocate a ") {
                return false;
            }
            near -= usize::from(near > 0);
            !(near > 0 && text.trim() == "Call Trace:")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &str) -> Line {
        parse(record.as_bytes()).unwrap()
    }

    #[test]
    fn records_with_context() {
        let l = line("6,339,5140900,-;NET: Registered PF_PACKET\n SUBSYSTEM=net\n");
        assert_eq!(l.text, "NET: Registered PF_PACKET");
        assert_eq!(l.priority, 6);
        assert!(parse(b"nonsense").is_none());
    }

    #[test]
    fn shortages() {
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| line(&format!("4,1,1,-;{t}")))
                .collect()
        };
        let found = without_shortages(lines(&[
            "selftests: vmalloc error: size 4096, failed to allocate pages",
            "CPU: 0 UID: 0",
            "Call Trace:",
            " <TASK>",
        ]));
        assert!(found.iter().all(|line| !line.is_alarm()));
        let found = without_shortages(lines(&["WARNING: at x", "Call Trace:"]));
        assert_eq!(found.iter().filter(|line| line.is_alarm()).count(), 2);
    }

    #[test]
    fn kills() {
        let alarms = |end: &str| {
            let texts = [
                "fill invoked oom-killer: gfp_mask=0x1",
                "CPU: 0",
                "Call Trace:",
                end,
            ];
            let lines = texts.map(|text| line(&format!("4,1,1,-;{text}")));
            let left = without_kills(lines.into());
            left.iter().filter(|line| line.is_alarm()).count()
        };
        assert_eq!(alarms("Memory cgroup out of memory: Killed process 7"), 0);
        assert_eq!(alarms("Out of memory: Killed process 7"), 1);
        assert_eq!(alarms("WARNING: at x"), 1);
    }

    #[test]
    fn races() {
        let report = |frames: &[&str]| {
            let header = [
                "BUG: KCSAN: data-race in a / b",
                "",
                "read to 0x1 of 2 bytes by task 9 on cpu 1:",
            ];
            let texts = header.iter().chain(frames).chain(&["=========="]);
            let lines = texts.map(|text| line(&format!("3,1,1,-;{text}")));
            without_races_elsewhere(lines.collect())
                .iter()
                .any(Line::is_alarm)
        };
        let other = " acct_account_cputime+0x66/0x170";
        assert!(!report(&[other]));
        for frame in [
            " vfio_device_open+0x6/0x17 [vfio]",
            " f+0x1/0x2 [vfio_iommu_type1]",
            " g+0x1/0x2 [mdma]",
        ] {
            assert!(report(&[other, frame]), "{frame}");
            // The scheduler is not the module's because the module has woken a thread.
            assert!(!report(&[other, other, other, other, frame]), "{frame}");
        }
        assert!(report(&[
            other,
            "",
            "write to 0x1 of 2 bytes by interrupt on cpu 0:",
            " h [mdma]"
        ]));
    }

    #[test]
    fn alarms() {
        for text in [
            "4,1,1,-;WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_main.c:1 f+0x1/0x2",
            "1,1,1,-;BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "4,1,1,-;WARNING: possible circular locking dependency detected",
            "3,1,1,-;rust_kernel: panicked at rust/vfio/irq.rs:1:2:",
            "2,1,1,-;something grave",
        ] {
            assert!(line(text).is_alarm(), "{text}");
        }
        assert!(!line("4,1,1,-;mdma 83b8f4f2: TAIL 7 is outside the ring of 4").is_alarm());
        assert!(!line("7,1,1,-;debug: nothing").is_alarm());
    }
}
