// SPDX-License-Identifier: GPL-2.0

//! Failures of single records, each record of a stream in turn.

use vfio_client::{v1, v2};

use crate::env::Env;
use crate::fixture::v2::V2;
use crate::fixture::{parse, Fixture, MARK};
use crate::harness::result::Result;
use crate::inject::point::Point;
use crate::{assert_errno, fail, tests};

tests! { "inject":
    each_record_of_a_save_by_v1 [],
    each_record_of_a_save_by_v2 [],
    each_record_of_a_load_by_v1 [],
    each_record_of_a_load_by_v2 [],
}

/// The pages that are filled, for more than one record of memory.
const PAGES: [u64; 3] = [1, 5, 9];

/// Returns the bytes of the first records of a stream.
fn length_of(stream: &[u8], records: usize) -> Result<usize> {
    let records = parse(stream)?.records.into_iter().take(records);
    Ok(records.map(|record| record.size()).sum())
}

/// Saves a stopped device in which record number `nth` fails, by calls of `buffer`, until one returns no bytes. Checks
/// that the failure comes once, where the record begins, and that nothing is lost.
fn save(
    point: &Point,
    nth: usize,
    whole: &[u8],
    mut buffer: impl FnMut() -> Result<Result<Vec<u8>, i32>>,
) -> Result {
    let before = point.failed()?;
    point.fail(nth as u64)?;
    let mut bytes = Vec::new();
    loop {
        match buffer()? {
            Ok(more) if more.is_empty() => break,
            Ok(more) => bytes.extend(more),
            Err(errno) => {
                assert_eq!(errno, libc::EIO, "record {nth}");
                assert_eq!(bytes.len(), length_of(whole, nth - 1)?, "record {nth}");
                point.expect_failed(before + 1)?;
            }
        }
    }
    point.expect_failed(before + 1)?;
    // The same stream, except where buffers begin.
    let (found, expected) = (parse(&bytes)?, parse(whole)?);
    let contents = |stream: &records::Stream| -> Vec<_> {
        let records = stream.records.iter();
        let without_end = records.filter(|r| r.kind() != Some(migration::stream::Kind::End));
        without_end
            .map(|r| (r.header.kind, r.payload.clone()))
            .collect()
    };
    assert_eq!(contents(&found), contents(&expected), "record {nth}");
    Ok(())
}

fn each_record_of_a_save_by_v1(env: &Env) -> Result {
    let (fixture, whole) = Fixture::saved(env, &PAGES)?;
    let point = Point::of(fixture.uuid(), "save_record")?;
    for nth in 1..=parse(&whole)?.records.len() {
        fixture.go(&[v1::State::STOP_AND_COPY])?;
        save(&point, nth, &whole, || {
            let mut out = Vec::new();
            if fixture.migration.pending_bytes()? == 0 {
                return Ok(Ok(out));
            }
            match fixture.migration.save_buffer(&mut out) {
                Ok(()) => Ok(Ok(out)),
                Err(e) => match e.errno() {
                    Some(errno) => Ok(Err(errno)),
                    None => fail!("no errno: {e}"),
                },
            }
        })?;
        fixture.go(&[v1::State::STOP])?;
    }
    fixture.device.reset()?;
    fixture.usable()
}

fn each_record_of_a_save_by_v2(env: &Env) -> Result {
    let (v2, whole) = V2::saved(env, &PAGES)?;
    let point = Point::of(v2.uuid(), "save_record")?;
    for nth in 1..=parse(&whole)?.records.len() {
        let fd = v2.begin(v2::State::STOP_COPY)?;
        save(&point, nth, &whole, || {
            let mut out = vec![0; 1 << 20];
            match fd.read(&mut out) {
                Ok(len) => {
                    out.truncate(len);
                    Ok(Ok(out))
                }
                Err(e) => match e.raw_os_error() {
                    Some(errno) => Ok(Err(errno)),
                    None => fail!("no errno: {e}"),
                },
            }
        })?;
        v2.to(v2::State::STOP)?;
    }
    v2.reset()?;
    v2.usable()
}

fn each_record_of_a_load_by_v1(env: &Env) -> Result {
    let (fixture, whole) = Fixture::saved(env, &PAGES)?;
    let point = Point::of(fixture.uuid(), "load_record")?;
    let count = parse(&whole)?.records.len();
    for nth in 1..=count {
        let before = point.failed()?;
        let (first, rest) = whole.split_at(length_of(&whole, nth - 1)?);
        fixture.go(&[v1::State::RESUMING])?;
        point.fail(nth as u64)?;
        fixture.feed(first, fixture.section())?;
        assert_eq!(point.left()?, 1, "record {nth}");
        let mut pieces = rest.chunks(fixture.section());
        let failed = pieces.try_for_each(|piece| fixture.migration.load_buffer(piece));
        assert_errno!(failed, EIO, "record {nth} of {count}");
        point.expect_failed(before + 1)?;
        assert_errno!(fixture.migration.set_state(v1::State::RUNNING), EIO);
        assert_eq!(fixture.state()?, v1::State::ERROR);
        fixture.device.reset()?;
    }
    fixture.load(&whole)?;
    fixture.expect_mark(MARK, "after a load that nothing disturbs");
    fixture.usable()
}

fn each_record_of_a_load_by_v2(env: &Env) -> Result {
    let (v2, whole) = V2::saved(env, &PAGES)?;
    let point = Point::of(v2.uuid(), "load_record")?;
    let count = parse(&whole)?.records.len();
    for nth in 1..=count {
        let before = point.failed()?;
        let (first, rest) = whole.split_at(length_of(&whole, nth - 1)?);
        let fd = v2.begin(v2::State::RESUMING)?;
        point.fail(nth as u64)?;
        fd.write_all(first)?;
        assert_eq!(point.left()?, 1, "record {nth}");
        assert_errno!(fd.write_all(rest), EIO, "record {nth} of {count}");
        point.expect_failed(before + 1)?;
        assert_errno!(v2.feature.set_state(v2::State::STOP), EIO);
        assert_eq!(v2.now()?, v2::State::ERROR);
        v2.reset()?;
    }
    v2.load_v2(&whole)?;
    v2.expect_mark(MARK, "after a load that nothing disturbs");
    v2.usable()
}
