// SPDX-License-Identifier: GPL-2.0

//! Runs `vfio-migrate inspect` on streams that the crate `migration` makes.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicU64;

use migration::dirty::{words_for, DirtyMap, Run};
use migration::save::{SaveSession, Source};
use migration::stream::{device_type, Checksum, Identity};
use serde_json::Value;

const PAGE: usize = 4096;
const PAGES: u64 = 64;

/// A device in memory. Its lowest pages are populated.
struct Fake {
    memory: RefCell<Vec<u8>>,
    populated: u64,
    dirty: DirtyMap<Vec<AtomicU64>>,
}

impl Checksum for Fake {
    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        !crc32c::crc32c_append(!crc, bytes)
    }
}

impl Source for Fake {
    type Out = [u8];
    type Words = Vec<AtomicU64>;

    fn dirty(&self) -> &DirtyMap<Self::Words> {
        &self.dirty
    }

    fn populated(&self, run: Run) -> Option<Run> {
        let end = run.end().min(self.populated);
        let count = end.checked_sub(run.first)?;
        (count > 0).then_some(Run {
            first: run.first,
            count,
        })
    }

    fn populated_pages(&self) -> u64 {
        self.populated
    }

    fn interrupted(&self) -> bool {
        false
    }

    fn put(&self, out: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), i32> {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn copy_memory(
        &self,
        out: &mut [u8],
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        let from = position as usize;
        let memory = self.memory.borrow();
        out[at..at + len].copy_from_slice(&memory[from..from + len]);
        Ok(crc.map(|crc| Self::crc32c(crc, &out[at..at + len])))
    }

    fn save_state(&self, buf: &mut [u8]) -> Result<usize, i32> {
        buf[..100].fill(0x5a);
        Ok(100)
    }
}

/// Makes a stream of pre-copy, of three pages written meanwhile, and of stop-and-copy.
fn stream() -> Vec<u8> {
    stream_with(true)
}

/// The same with checksums of memory or without.
fn stream_with(checksums: bool) -> Vec<u8> {
    let identity = Identity {
        device_type: device_type("fake"),
        device_version: 2,
        features: 0,
        memory_size: PAGES * PAGE as u64,
        page_size: PAGE as u32,
        state_size_max: 256,
    };
    let words = (0..words_for(PAGES)).map(|_| AtomicU64::new(0)).collect();
    let fake = Fake {
        memory: RefCell::new((0..PAGES as usize * PAGE).map(|i| (i / 7) as u8).collect()),
        populated: 40,
        dirty: DirtyMap::new(words, PAGES).unwrap(),
    };
    let session = SaveSession::begin(identity, vec![0; 256], &fake).unwrap();
    let mut session = session.with_checksums(checksums);
    let mut buffer = vec![0; 64 << 10];
    let mut stream = Vec::new();
    let mut fill = |session: &mut SaveSession<_>| loop {
        let len = buffer.len();
        match session.fill(&fake, &mut buffer[..], len).unwrap() {
            0 => break,
            n => stream.extend_from_slice(&buffer[..n]),
        }
    };
    fill(&mut session);
    for page in [3, 4, 20] {
        fake.memory.borrow_mut()[page * PAGE] ^= 0xff;
        fake.dirty.mark(page as u64);
    }
    session.stop();
    fill(&mut session);
    stream
}

fn inspect(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vfio-migrate"))
        .arg("inspect")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A broken stream is not read to its end.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn memory_without_checksums_is_counted() {
    let found = |checksums| json(&inspect(&["--json", "-"], &stream_with(checksums)));
    assert_eq!(found(true)["unchecked_bytes"], 0);
    let without = found(false);
    assert_eq!(without["ok"], true);
    assert_eq!(without["unchecked_bytes"], 43 * PAGE);
    let text = inspect(&["-"], &stream_with(false)).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("unchecked  172 KiB of memory have no checksum"),
        "{text}"
    );
}

#[test]
fn a_valid_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let stream = stream();
    fs::write(&path, &stream).unwrap();
    let output = inspect(&["--json", path.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(0));
    let found = json(&output);
    assert_eq!(found["ok"], true);
    assert_eq!(found["command"], "inspect");
    assert_eq!(found["device_type"], "fake");
    assert_eq!(found["bytes"], stream.len());
    assert_eq!(found["pages"], 43);
    assert_eq!(found["pages_again"], 3);
    assert_eq!(found["passes"], 2);
    assert_eq!(found["records"]["MEMORY"]["bytes"], 43 * PAGE);
    assert_eq!(found["records"]["DEVICE"]["bytes"], 100);
    assert_eq!(found["records"]["END"]["count"], 1);
    assert_eq!(found["broken"], Value::Null);
}

/// A source that was reset sends a new stream after the first one, complete or not.
#[test]
fn a_stream_that_starts_over() {
    let stream = stream();
    for first in [&stream[..], &stream[..32 + 56]] {
        let output = inspect(&["-", "--json"], &[first, &stream[..]].concat());
        assert_eq!(output.status.code(), Some(0));
        let found = json(&output);
        assert_eq!(found["ok"], true);
        assert_eq!(found["restarted"], 1);
        assert_eq!(found["records"]["IDENTITY"]["count"], 2);
        assert_eq!(found["pages_again"], if first == stream { 6 } else { 3 });
    }
    let text = inspect(&["-"], &[&stream[..], &stream[..]].concat()).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("restarted  1 times"), "{text}");
}

#[test]
fn for_people() {
    let output = inspect(&["-", "--quiet"], &stream());
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fake, version 2"), "{text}");
    assert!(text.contains("valid"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn a_corrupt_stream_is_located() {
    let mut stream = stream();
    // In the payload of the second record, the first one of MEMORY.
    stream[32 + 56 + 32 + 1000] ^= 1;
    let output = inspect(&["-", "--json"], &stream);
    assert_eq!(output.status.code(), Some(3));
    let found = json(&output);
    assert_eq!(found["ok"], false);
    assert_eq!(found["broken"]["record"], 1);
    assert_eq!(found["broken"]["offset"], 32 + 56);
    assert_eq!(found["broken"]["errno"], 74);
    let text = String::from_utf8(inspect(&["-"], &stream).stdout).unwrap();
    assert!(text.contains("record 1 at offset 0x58"), "{text}");
}

#[test]
fn a_file_that_is_not_there() {
    let output = inspect(&["/nowhere/state", "--json"], b"");
    assert_eq!(output.status.code(), Some(1));
    let found = json(&output);
    assert_eq!(found["error"]["errno_name"], "ENOENT");
    assert_eq!(found["error"]["field"], "open /nowhere/state");
    let output = inspect(&["/nowhere/state"], b"");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("vfio-migrate: open /nowhere/state: "),
        "{text}"
    );
}
