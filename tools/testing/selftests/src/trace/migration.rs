// SPDX-License-Identifier: GPL-2.0

//! Events of a migration: states, records and passes.

use records::Stream;
use vfio_client::{v1, v2};

use crate::assert_errno;
use crate::env::{debugfs, Env, Guest};
use crate::fixture::v2::V2;
use crate::fixture::{parse, Fixture, PAGE};
use crate::harness::result::Result;
use crate::tests;
use crate::trace::watch::{Event, Watch};

tests! { "trace" needs [Tracing]:
    states_by_v1 [],
    states_by_v2 [],
    the_states_of_a_load_that_fails [],
    records_by_v1 [],
    records_by_v2 [],
    passes [] needs [DeviceMemory],
}

/// Returns the texts of the events with this name.
fn texts(events: &[Event], name: &str) -> Vec<String> {
    let named = events.iter().filter(|event| event.name == name);
    named.map(|event| event.text.clone()).collect()
}

/// Checks the changes of state since the last look.
#[track_caller]
fn expect_states(watch: &Watch, uuid: &str, states: &[&str]) -> Result {
    assert_eq!(texts(&watch.take(uuid)?, "vfio_mig_state"), states);
    Ok(())
}

fn states_by_v1(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let (fixture, stream) = Fixture::saved(env, &[])?;
    let uuid = fixture.uuid().to_string();
    expect_states(
        &watch,
        &uuid,
        &["RUNNING -> STOP_COPY by v1", "STOP_COPY -> STOP by v1"],
    )?;
    fixture.load(&stream)?;
    expect_states(
        &watch,
        &uuid,
        &["STOP -> RESUMING by v1", "RESUMING -> RUNNING by v1"],
    )?;
    // A write of the present state changes nothing.
    fixture.go(&[v1::State::RUNNING, v1::State::PRE_COPY])?;
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    fixture.device.reset()?;
    fixture.go(&[v1::State::STOP])?;
    expect_states(
        &watch,
        &uuid,
        &[
            "RUNNING -> PRE_COPY by v1",
            "PRE_COPY -> STOP_COPY by v1",
            "STOP_COPY -> RUNNING by reset",
            "RUNNING -> STOP by v1",
        ],
    )?;
    let _fixture = Fixture::of(Guest::open(fixture.close())?)?;
    expect_states(&watch, &uuid, &["STOP -> RUNNING by open"])
}

fn states_by_v2(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let v2 = V2::new(env)?;
    let uuid = v2.uuid().to_string();
    let _fd = v2.begin(v2::State::PRE_COPY)?;
    v2.to(v2::State::STOP_COPY)?;
    v2.to(v2::State::RUNNING)?;
    // The states on the way are there too.
    expect_states(
        &watch,
        &uuid,
        &[
            "RUNNING -> PRE_COPY by v2",
            "PRE_COPY -> PRE_COPY_P2P by v2",
            "PRE_COPY_P2P -> STOP_COPY by v2",
            "STOP_COPY -> STOP by v2",
            "STOP -> RUNNING_P2P by v2",
            "RUNNING_P2P -> RUNNING by v2",
        ],
    )
}

fn the_states_of_a_load_that_fails(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let v2 = V2::new(env)?;
    let uuid = v2.uuid().to_string();
    v2.reach(v2::State::ERROR)?;
    v2.reset()?;
    v2.go(&[v1::State::RESUMING])?;
    assert_errno!(v2.migration.set_state(v1::State::RUNNING), ENODATA);
    expect_states(
        &watch,
        &uuid,
        &[
            "RUNNING -> RUNNING_P2P by v2",
            "RUNNING_P2P -> STOP by v2",
            "STOP -> RESUMING by v2",
            "RESUMING -> ERROR by v2",
            "ERROR -> RUNNING by reset",
            "RUNNING -> RESUMING by v1",
            "RESUMING -> ERROR by v1",
        ],
    )
}

/// Returns the events that the records of a stream cause.
fn expected(stream: &Stream) -> Vec<String> {
    let text = |record: &records::Record| {
        let header = &record.header;
        let kind = record.kind().expect("a kind of this version");
        let (position, length) = record
            .extent()
            .unwrap_or((header.position, header.length.into()));
        format!(
            "{} {kind} position={position:#x} length={length:#x} bytes={}",
            header.sequence,
            record.size()
        )
    };
    stream.records.iter().map(text).collect()
}

/// Checks the events of a save and a load against the stream that was moved.
fn compare(events: &[Event], bytes: &[u8], pages: u64) -> Result {
    let stream = parse(bytes)?;
    let saved = texts(events, "vfio_mig_save_record");
    assert_eq!(saved, expected(&stream));
    assert_eq!(texts(events, "vfio_mig_load_record"), saved);
    // What a reader of the events adds up.
    let mut memory = 0;
    let mut all = 0;
    for event in events
        .iter()
        .filter(|event| event.name == "vfio_mig_save_record")
    {
        all += event.number("bytes")?;
        if event.text.contains(" MEMORY ") {
            memory += event.number("length")?;
        }
    }
    assert_eq!(all as usize, bytes.len());
    assert_eq!(memory as u64, pages * PAGE, "bytes of device memory");
    Ok(())
}

/// The pages that the tests write, with a gap: several records.
const PAGES: [std::ops::Range<u64>; 2] = [3..9, 700..710];

/// Writes them, and returns how many the device has.
fn write(fixture: &Fixture) -> Result<u64> {
    let pages = || PAGES.into_iter().flatten();
    fixture.write_pages(pages(), 0x11)?;
    Ok(pages().filter(|page| fixture.has_page(*page)).count() as u64)
}

fn records_by_v1(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let fixture = Fixture::new(env)?;
    let pages = write(&fixture)?;
    fixture.go(&[v1::State::PRE_COPY])?;
    let mut bytes = fixture.save_pending()?.concat();
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    bytes.extend(fixture.save_pending()?.concat());
    fixture.go(&[v1::State::STOP])?;
    fixture.load(&bytes)?;
    compare(&watch.take(fixture.uuid())?, &bytes, pages)
}

fn records_by_v2(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let v2 = V2::new(env)?;
    let pages = write(&v2.fixture)?;
    let fd = v2.begin(v2::State::PRE_COPY)?;
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    v2.to(v2::State::STOP_COPY)?;
    fd.read_available(&mut bytes)?;
    v2.to(v2::State::STOP)?;
    v2.load_v2(&bytes)?;
    compare(&watch.take(v2.uuid())?, &bytes, pages)
}

/// Each pass says how many pages it found dirty, and how many it has sent.
fn passes(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let fixture = Fixture::new(env)?;
    let pages = write(&fixture)?;
    fixture.go(&[v1::State::PRE_COPY])?;
    fixture.save_pending()?;
    // Nothing is dirty: no pass.
    fixture.save_pending()?;
    fixture.write_pages([4, 6], 0x22)?;
    fixture.save_pending()?;
    fixture.write_pages([6], 0x33)?;
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    fixture.save_pending()?;
    let uuid = fixture.uuid();
    let events = watch.take(uuid)?;
    let expected: Vec<_> = (0..)
        .zip([pages, 2, 1])
        .map(|(pass, pages)| format!("pass={pass} pages={pages}"))
        .collect();
    assert_eq!(texts(&events, "vfio_mig_pass_start"), expected);
    assert_eq!(texts(&events, "vfio_mig_pass_end"), expected);
    assert_eq!(debugfs::migration(uuid, "passes")?, expected.len() as u64);
    // The records of a pass are between its start and its end.
    let mut open = false;
    for event in &events {
        match event.name.as_str() {
            "vfio_mig_pass_start" => {
                assert!(!open, "two passes at once: {events:?}");
                open = true;
            }
            "vfio_mig_pass_end" => {
                assert!(open, "an end without a start: {events:?}");
                open = false;
            }
            "vfio_mig_save_record" if event.text.contains(" MEMORY ") => {
                assert!(open, "memory outside of a pass: {events:?}");
            }
            _ => {}
        }
    }
    Ok(())
}
