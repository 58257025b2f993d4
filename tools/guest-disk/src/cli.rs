// SPDX-License-Identifier: GPL-2.0

//! What `nvme-cli` says about the controller.

use std::fs;

use serde_json::Value;

use crate::disk::{ask, Counts, Found};
use crate::wrong::Wrong;

const NVME: &str = "/usr/sbin/nvme";
const CONTROLLER: &str = "/dev/nvme0";
const NAMESPACE: &str = "/dev/nvme0n1";

/// The composite temperature in kelvins, which never changes.
const TEMPERATURE: u64 = 310;
/// Blocks at the end of the namespace, for commands that change data.
const BLOCKS: u64 = 8;
/// Their bytes.
const BYTES: usize = 4096;

/// Questions to the controller, whether each must succeed, and words of the answer.
const QUESTIONS: [(&str, bool, &str); 15] = [
    ("id-ctrl /dev/nvme0", true, "sqes      : 0x66"),
    ("id-ns /dev/nvme0n1", true, "lbads:9"),
    ("list-ns /dev/nvme0", true, "[   0]:0x1"),
    ("fw-log /dev/nvme0", true, "frs1"),
    ("effects-log /dev/nvme0 --csi=0", true, "Write Zeroes"),
    // Number of queues, volatile write cache, events.
    ("get-feature /dev/nvme0 -f 7", true, "0x00070007"),
    ("set-feature /dev/nvme0 -f 6 -V 0", true, "value:0"),
    ("get-feature /dev/nvme0 -f 6", true, "value:00000000"),
    ("set-feature /dev/nvme0 -f 6 -V 1", true, "value:0x00000001"),
    (
        "set-feature /dev/nvme0 -f 6 -V 1 -s",
        false,
        "Feature Identifier Not Saveable",
    ),
    (
        "get-log /dev/nvme0 -i 0x7f -l 64",
        false,
        "Invalid Log Page",
    ),
    (
        "id-ns /dev/nvme0 -n 2",
        false,
        "Invalid Namespace or Format",
    ),
    (
        "admin-passthru /dev/nvme0 -O 0 --cdw10=99",
        false,
        "Invalid Queue Identifier",
    ),
    (
        "io-passthru /dev/nvme0n1 -O 0x7f -n 1",
        false,
        "Invalid Command Opcode",
    ),
    (
        "format /dev/nvme0n1 --force",
        false,
        "Invalid Command Opcode",
    ),
];

/// Asks, and counts.
#[derive(Default)]
struct Asked(usize);

impl Asked {
    /// Asks a question, and checks the answer.
    fn expect(&mut self, question: &str, succeeds: bool, words: &str) -> Result<(), Wrong> {
        self.0 += 1;
        let arguments: Vec<&str> = question.split_ascii_whitespace().collect();
        let (success, text) = ask(NVME, &arguments)?;
        if success == succeeds && text.contains(words) {
            return Ok(());
        }
        let done = |success| if success { "succeeds" } else { "fails" };
        let (found, expected) = (done(success), done(succeeds));
        Err(format!(
            "nvme {question}: {found} and says {text:?}, not: {expected} and says {words:?}"
        )
        .into())
    }

    /// Asks a question whose answer is JSON.
    fn json(&mut self, question: &str) -> Result<Value, Wrong> {
        self.0 += 1;
        let arguments = question.split_ascii_whitespace().chain(["-o", "json"]);
        let arguments: Vec<&str> = arguments.collect();
        let (success, text) = ask(NVME, &arguments)?;
        let answer = serde_json::from_str(&text).ok().filter(|_| success);
        answer.ok_or_else(|| format!("nvme {question}: {text:?}").into())
    }
}

/// Returns a number of an answer. Large ones may be strings.
fn number(answer: &Value, name: &str) -> Option<u64> {
    let value = &answer[name];
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Checks numbers of an answer.
fn numbers(what: &str, answer: &Value, expected: &[(&str, u64)]) -> Result<(), Wrong> {
    for (name, expected) in expected {
        if number(answer, name) != Some(*expected) {
            let found = &answer[name];
            return Err(format!("nvme {what}: {name} is {found}, not {expected}").into());
        }
    }
    Ok(())
}

/// Checks texts of an answer.
fn texts(what: &str, answer: &Value, expected: &[(&str, &str)]) -> Result<(), Wrong> {
    for (name, expected) in expected {
        let found = answer[name].as_str().unwrap_or_default().trim();
        if found != *expected {
            return Err(format!("nvme {what}: {name} is {found:?}, not {expected:?}").into());
        }
    }
    Ok(())
}

/// Asks all questions, and tries commands on the last blocks. Returns how many answers were right.
pub(crate) fn examine(disk: &Found) -> Result<usize, Wrong> {
    let mut asked = Asked::default();
    identity(&mut asked, disk)?;
    for (question, succeeds, words) in QUESTIONS {
        asked.expect(question, succeeds, words)?;
    }
    errors(&mut asked)?;
    commands(&mut asked, disk)?;
    Ok(asked.0)
}

/// Who the controller is, and how large its namespace.
fn identity(asked: &mut Asked, disk: &Found) -> Result<(), Wrong> {
    let list = asked.json("list")?;
    let listed = &list["Devices"][0];
    texts(
        "list",
        listed,
        &[
            ("DevicePath", NAMESPACE),
            ("ModelNumber", &disk.model),
            ("SerialNumber", &disk.serial),
            ("Firmware", &disk.firmware),
        ],
    )?;
    let blocks = disk.size / 512;
    numbers(
        "list",
        listed,
        &[
            ("PhysicalSize", disk.size),
            ("MaximumLBA", blocks),
            ("SectorSize", 512),
        ],
    )?;
    let controller = asked.json(&format!("id-ctrl {CONTROLLER}"))?;
    texts(
        "id-ctrl",
        &controller,
        &[
            ("mn", "vfio-mdev-rs NVMe controller"),
            ("sn", &disk.serial),
            ("fr", "1.0"),
        ],
    )?;
    numbers(
        "id-ctrl",
        &controller,
        &[
            ("vid", 0x4d44),
            ("ver", 0x1_0400),
            ("mdts", 5),
            ("nn", 1),
            ("oacs", 0),
            ("kas", 0),
            ("oncs", 0x1d),
            ("sgls", 0),
        ],
    )?;
    let namespace = asked.json(&format!("id-ns {NAMESPACE}"))?;
    numbers(
        "id-ns",
        &namespace,
        &[("nsze", blocks), ("ncap", blocks), ("nuse", blocks)],
    )?;
    let uuid = fs::read_to_string("/sys/class/block/nvme0n1/uuid")?;
    asked.expect(&format!("ns-descs {NAMESPACE}"), true, uuid.trim())
}

/// The error log has the format that was refused. `nvme-cli` itself asks for what a controller may refuse.
fn errors(asked: &mut Asked) -> Result<(), Wrong> {
    let log = asked.json(&format!("error-log {CONTROLLER}"))?;
    let entries = log["errors"].as_array().map_or(&[][..], Vec::as_slice);
    // An admin command; Invalid Command Opcode, do not retry.
    let format = |entry: &&Value| {
        number(entry, "sqid") == Some(0) && number(entry, "status_field") == Some(0x4001)
    };
    let count = |entry| number(entry, "error_count").unwrap_or_default();
    let refused = entries.iter().find(format).map(count);
    let refused = refused.ok_or_else(|| format!("nvme error-log: no format in {log}"))?;
    let smart = asked.json(&format!("smart-log {CONTROLLER}"))?;
    let found = number(&smart, "num_err_log_entries");
    if found.is_none_or(|found| found < refused || refused == 0) {
        return Err(format!("nvme smart-log: {found:?} errors, {refused} in the log").into());
    }
    Ok(())
}

/// Commands that change the last blocks of the namespace.
fn commands(asked: &mut Asked, disk: &Found) -> Result<(), Wrong> {
    let data: Vec<u8> = (0..BYTES).map(|_| fastrand::u8(..)).collect();
    fs::write("/tmp/data", &data)?;
    let end = disk.size / 512;
    let at = end - BLOCKS;
    let blocks = |at: u64| format!("--start-block={at} --block-count={}", BLOCKS - 1);
    let file = |name: &str| format!("--data-size={BYTES} --data=/tmp/{name}");
    let found = || fs::read("/tmp/found").map_err(|e| Wrong::from(format!("/tmp/found: {e}")));

    let range = blocks(at);
    asked.expect(
        &format!("write {NAMESPACE} {range} {}", file("data")),
        true,
        "Success",
    )?;
    asked.expect(
        &format!("compare {NAMESPACE} {range} {}", file("data")),
        true,
        "Success",
    )?;
    asked.expect(
        &format!("read {NAMESPACE} {range} {}", file("found")),
        true,
        "Success",
    )?;
    if found()? != data {
        return Err("nvme read: not what nvme write has written".into());
    }
    asked.expect(&format!("flush {NAMESPACE} -n 1"), true, "")?;
    asked.expect(
        &format!("write-zeroes {NAMESPACE} -n 1 --start-block={at} --block-count=0"),
        true,
        "Success",
    )?;
    let compare = format!("compare {NAMESPACE} {range} {}", file("data"));
    asked.expect(&compare, false, "Compare Failure")?;
    asked.expect(
        &format!("dsm {NAMESPACE} -n 1 --ad --slbs={at} --blocks={BLOCKS}"),
        true,
        "",
    )?;
    asked.expect(
        &format!("read {NAMESPACE} {range} {}", file("found")),
        true,
        "Success",
    )?;
    if found()? != [0; BYTES] {
        return Err("nvme read: blocks that were deallocated are not 0".into());
    }
    let beyond = format!("read {NAMESPACE} {} {}", blocks(at + 1), file("found"));
    asked.expect(&beyond, false, "LBA Out of Range")
}

/// Checks what SMART says of a disk that works. The kernel has counted reads, and at least these bytes were written.
///
/// The kernel counts Write Zeroes as writes. SMART does not.
pub(crate) fn smart(kernel: Counts, bytes_written: u64) -> Result<(), Wrong> {
    let mut asked = Asked::default();
    let smart = asked.json(&format!("smart-log {CONTROLLER}"))?;
    numbers(
        "smart-log",
        &smart,
        &[
            ("critical_warning", 0),
            ("temperature", TEMPERATURE),
            ("avail_spare", 100),
            ("spare_thresh", 10),
            ("percent_used", 0),
            ("power_cycles", 1),
            ("media_errors", 0),
        ],
    )?;
    for (name, least) in [
        ("host_read_commands", kernel.reads),
        ("host_write_commands", 1),
        // Units of 1000 blocks of 512 bytes.
        ("data_units_read", kernel.bytes_read / 512_000),
        ("data_units_written", bytes_written / 512_000),
    ] {
        let found = number(&smart, name);
        if found.is_none_or(|found| found < least) {
            let found = &smart[name];
            return Err(format!("nvme smart-log: {name} is {found}, not at least {least}").into());
        }
    }
    Ok(())
}
