// SPDX-License-Identifier: GPL-2.0

//! Each refused stream causes one log line that names the device and the reason.

use std::time::{Duration, Instant};

use migration::stream::{Kind, END_SIZE};
use vfio_client::v1::State;

use crate::env::Env;
use crate::fixture::{Fixture, PAGE};
use crate::harness::result::Result;
use crate::stream::bench::Bench;
use crate::{assert_errno, assert_refused, tests};
use records::{Record, Stream};

tests! { "refusals":
    p26_every_refusal_says_why ["P26", "P50", "P51"],
    p26_a_refused_register_says_why ["P26"] needs [Mdma],
    p26_the_end_of_a_refused_load_says_why ["P26"],
    a_noisy_device_does_not_silence_another [],
}

type Change = fn(&mut Stream);

/// The change, whether the rest of the stream is corrected to match, and the expected log text.
#[rustfmt::skip]
const SPOILT: [(Change, bool, &str); 15] = [
    (|s| s.records[1].header.sequence = 7, false, "record 7"),
    (|s| drop(s.records.remove(1)), false, "expected"),
    (|s| s.records[1].payload[9] ^= 1, false, "payload checksum"),
    (|s| s.records[1].header.flags |= 1 << 9, true, "flags"),
    (|s| s.records.insert(1, Record::new(77, 0, vec![])), true, "kind 77"),
    (|s| { let i = s.records[0].clone(); s.records.insert(1, i) }, true, "IDENTITY that is not record 0"),
    (|s| s.records.insert(1, memory(1 << 40, PAGE)), true, "limit"),
    (|s| s.records.insert(1, memory(12, PAGE)), true, "whole pages"),
    (|s| s.records.insert(1, memory(0, 0)), true, "0 bytes"),
    (|s| s.records.insert(1, Record::new(Kind::Zero as u16, 0, vec![0; 3])), true, "ZERO"),
    (|s| s.records.insert(1, Record::new(Kind::Device as u16, 16, vec![0; 3])), true, "DEVICE"),
    (|s| s.records.insert(1, Record::new(Kind::End as u16, 0, vec![0; 3])), true, "END"),
    (|s| s.records[0].header.position = 1, true, "IDENTITY"),
    (|s| s.records.push(memory(0, PAGE)), true, "after the END"),
    (|s| { let d = s.position(Kind::Device); s.records[d].payload.pop(); }, true, "state"),
];

/// Values of the state that `mdma` refuses.
#[rustfmt::skip]
const SPOILT_MDMA: [(Change, bool, &str); 3] = [
    (|s| state(s, 0, 0x80), true, "flags"),
    (|s| state(s, 4, 0x80), true, "error"),
    (|s| state(s, 32, 0x80), true, "ring_order"),
];

fn memory(position: u64, len: u64) -> Record {
    Record::new(Kind::Memory as u16, position, vec![0; len as usize])
}

/// Changes a byte of the device state.
fn state(stream: &mut Stream, at: usize, value: u8) {
    let device = stream.position(Kind::Device);
    stream.records[device].payload[at] = value;
}

/// Checks that a new device refuses the bytes.
fn refused(env: &Env, bytes: &[u8], errno: i32, reason: &str) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.go(&[State::RESUMING])?;
    let load = || fixture.migration.load_buffer(bytes);
    crate::harness::check::expect_refusal(env, fixture.uuid(), errno, reason, reason, load);
    Ok(())
}

fn each_says_why(env: &Env, bench: &Bench, changes: &[(Change, bool, &str)]) -> Result {
    for (change, seal, reason) in changes {
        let mut stream = bench.stream.clone();
        change(&mut stream);
        if *seal {
            stream.seal();
        }
        let bytes = stream.bytes();
        // Other tests check the errno.
        let errno = {
            let fixture = Fixture::new(env)?;
            fixture.go(&[State::RESUMING])?;
            let refusal = fixture.migration.load_buffer(&bytes).expect_err(reason);
            refusal.errno().expect("from the kernel")
        };
        refused(env, &bytes, errno, reason)?;
    }
    Ok(())
}

fn p26_a_refused_register_says_why(env: &Env) -> Result {
    each_says_why(env, &Bench::new(env)?, &SPOILT_MDMA)
}

fn p26_every_refusal_says_why(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    each_says_why(env, &bench, &SPOILT)?;
    // The checksum of a header, and the counts of the END record.
    let mut bytes = bench.stream.bytes();
    let second = bench.stream.records[0].size();
    bytes[second + 30] ^= 1;
    refused(env, &bytes, libc::EBADMSG, "header checksum")?;
    for (field, name) in ["records", "memory bytes", "zero bytes", "state bytes"]
        .into_iter()
        .enumerate()
    {
        let mut stream = bench.stream.clone();
        let end = stream.position(Kind::End);
        let record = &mut stream.records[end];
        assert_eq!(record.payload.len(), END_SIZE);
        record.payload[field * 8] ^= 1;
        record.header.payload_crc = records::crc(&record.payload);
        refused(env, &stream.bytes(), libc::EBADMSG, name)?;
    }
    Ok(())
}

fn p26_the_end_of_a_refused_load_says_why(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let uuid = fixture.uuid();
    let run = || fixture.migration.write_state(State::RUNNING);
    fixture.go(&[State::RESUMING])?;
    assert_refused!(env, uuid, run(), ENODATA, "incomplete");
    fixture.device.reset()?;
    fixture.go(&[State::RESUMING])?;
    assert!(fixture.migration.load_buffer(&[1; 64]).is_err());
    assert_refused!(env, uuid, run(), EINVAL, "not a device state");
    // Each later write of data logs the reason again.
    fixture.device.reset()?;
    fixture.go(&[State::RESUMING])?;
    assert!(fixture.migration.load_buffer(&[1; 64]).is_err());
    let more = || fixture.migration.load_buffer(&[1; 64]);
    assert_refused!(env, uuid, more(), EINVAL, "not a device state");
    Ok(())
}

/// The kernel's limit: lines of a device in each interval.
const BURST: u64 = 10;
const INTERVAL: Duration = Duration::from_secs(5);

fn a_noisy_device_does_not_silence_another(env: &Env) -> Result {
    let (noisy, other) = (Fixture::new(env)?, Fixture::new(env)?);
    let mark = env.kmsg.mark();
    let start = Instant::now();
    for _ in 0..3 * BURST {
        assert_errno!(noisy.migration.write_state(State(0xff)), EINVAL);
    }
    // A slow host may see the begin of further intervals.
    let intervals = start.elapsed().as_secs() / INTERVAL.as_secs() + 1;
    assert_errno!(other.migration.write_state(State(0xff)), EINVAL);

    let lines = env.kmsg.since(mark);
    let count = |of: &Fixture| {
        let its = lines.iter().filter(|line| line.text.contains(of.uuid()));
        its.count() as u64
    };
    let logged = count(&noisy);
    assert!(
        (BURST..=BURST * intervals).contains(&logged),
        "{logged} lines of {} refusals in {intervals} intervals",
        3 * BURST
    );
    assert_eq!(count(&other), 1, "lines of the other device");
    Ok(())
}
