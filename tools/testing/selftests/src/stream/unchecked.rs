// SPDX-License-Identifier: GPL-2.0

//! `payload_checksums` of an instance: streams whose memory has no checksum.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use migration::stream::{Kind, FLAG_UNCHECKED, HEADER_SIZE};
use vfio_client::v1::State;
use vfio_client::v2;

use crate::env::Env;
use crate::fixture::v2::V2;
use crate::fixture::{parse, Fixture, PAGE};
use crate::harness::result::Result;
use crate::{assert_errno, tests};
use records::Stream;

tests! { "unchecked":
    p50_streams_of_both_kinds_load ["P50", "P26"],
    p50_a_save_in_progress_stays_of_its_kind ["P50"] needs [DeviceMemory],
    p26_a_flipped_bit_is_noticed_in_a_header_and_not_in_memory ["P26"] needs [DeviceMemory],
    the_attribute_is_for_root_to_set [],
}

/// Pages of device memory in the streams.
const PAGES: [u64; 4] = [3, 4, 9, 300];

/// Checks which records have no checksum. A device without memory has none of them.
#[track_caller]
fn expect_kind(stream: &Stream, checked: bool) {
    for record in &stream.records {
        let is_memory = record.kind() == Some(Kind::Memory);
        let is_unchecked = record.header.flags & FLAG_UNCHECKED != 0;
        assert_eq!(is_unchecked, is_memory && !checked, "{:?}", record.header);
        if is_unchecked {
            assert_eq!(record.header.payload_crc, 0);
        }
    }
}

fn p50_streams_of_both_kinds_load(env: &Env) -> Result {
    for checked in [false, true] {
        // The destination's own setting does not matter.
        let (source, destination) = (V2::new(env)?, V2::new(env)?);
        source.instance.set_payload_checksums(checked)?;
        source.fill_state(&PAGES)?;
        let by_v1 = source.save()?;
        source.go(&[State::RUNNING])?;
        let by_v2 = source.save_v2()?;
        source.to(v2::State::RUNNING)?;
        for (stream, how) in [(&by_v1, "v1"), (&by_v2, "v2")] {
            expect_kind(&parse(stream)?, checked);
            destination.load(stream)?;
            source.expect_equal(&destination, &format!("from {how} through v1"))?;
            destination.reset()?;
            destination.load_v2(stream)?;
            source.expect_equal(&destination, &format!("from {how} through v2"))?;
            destination.reset()?;
        }
    }
    Ok(())
}

fn p50_a_save_in_progress_stays_of_its_kind(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.fill_state(&PAGES)?;
    for checked in [false, true] {
        fixture.instance.set_payload_checksums(checked)?;
        fixture.go(&[State::PRE_COPY])?;
        let mut bytes = fixture.save_pending()?.concat();
        fixture.instance.set_payload_checksums(!checked)?;
        // More memory is sent after the change.
        fixture.write_pages([PAGES[0]], 0x77)?;
        fixture.go(&[State::STOP_AND_COPY])?;
        bytes.extend(fixture.save_pending()?.concat());
        fixture.go(&[State::RUNNING])?;
        let stream = parse(&bytes)?;
        assert!(stream.count(Kind::Memory) > 1);
        expect_kind(&stream, checked);
    }
    Ok(())
}

fn p26_a_flipped_bit_is_noticed_in_a_header_and_not_in_memory(env: &Env) -> Result {
    let (source, destination) = (Fixture::new(env)?, Fixture::new(env)?);
    source.instance.set_payload_checksums(false)?;
    source.fill_state(&PAGES)?;
    let bytes = source.save()?;
    let stream = parse(&bytes)?;
    let memory = stream.position(Kind::Memory);
    let at: usize = stream.records[..memory].iter().map(|r| r.size()).sum();
    let page = stream.records[memory].header.position / PAGE;

    let mut flipped = bytes.clone();
    flipped[at + HEADER_SIZE + 100] ^= 4;
    destination.load(&flipped)?;
    let mut expected = source.read_memory(page * PAGE, PAGE as usize)?;
    expected[100] ^= 4;
    assert_eq!(
        destination.read_memory(page * PAGE, PAGE as usize)?,
        expected
    );
    destination.device.reset()?;

    for bit in (0..HEADER_SIZE * 8).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at + bit / 8] ^= 1 << (bit % 8);
        destination.go(&[State::RESUMING])?;
        assert_errno!(
            destination.migration.load_buffer(&flipped),
            EBADMSG,
            "bit {bit}"
        );
        destination.device.reset()?;
    }
    destination.load(&bytes)?;
    source.expect_equal(&destination, "without a flipped bit")
}

fn the_attribute_is_for_root_to_set(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let path = instance.path().join("payload_checksums");
    let metadata = fs::metadata(&path)?;
    assert_eq!(metadata.uid(), 0);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_eq!(instance.payload_checksums()?, Some(true), "by default");
    instance.set_payload_checksums(false)?;
    for wrong in ["x", "2", "\0"] {
        assert_errno!(fs::write(&path, wrong), EINVAL, "{wrong:?}");
        assert_eq!(instance.payload_checksums()?, Some(false), "{wrong:?}");
    }
    // It is the instance's, not that of a user.
    let guest = crate::env::Guest::open(instance)?;
    let instance = guest.close();
    assert_eq!(instance.payload_checksums()?, Some(false));
    instance.set_payload_checksums(true)?;
    assert_eq!(instance.payload_checksums()?, Some(true));
    Ok(())
}
