// SPDX-License-Identifier: GPL-2.0

//! Parts of a state with numbers of their own, what a driver sends in pre-copy, and the hooks of a migration.

use std::thread;
use std::time::Duration;

use migration::stream::Kind;
use records::Stream;
use vfio_client::v1;
use vfio_client::v2::{DataFd, State};

use super::variants::{Variant, ALL};
use crate::env::sample::Sample;
use crate::env::Env;
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "parts" needs [Mdma]:
    p51_only_what_is_needed_is_sent ["P51"],
    p51_a_mandatory_part_that_is_not_known_is_refused ["P51"],
    p51_an_optional_part_that_is_not_known_is_ignored ["P51"],
    p51_a_state_without_a_part_is_loaded ["P51"],
    p49_a_part_with_wrong_contents_changes_nothing ["P49"],
    p45_a_part_is_sent_in_pre_copy ["P45"],
    p45_pre_copy_starts_over ["P45"],
    p46_poll_wakes_when_a_part_changes ["P46"],
    hooks_run_once_for_each_session [],
    p10_a_device_that_refuses_to_stop_runs_on ["P10"],
    p10_a_driver_refuses_a_save_and_a_load ["P10"],
}

const VALUE: u64 = 0x0;
const EXTRA: u64 = 0xc;
const OPTIONAL: u64 = 0x10;
const AHEAD: u64 = 0x14;
const RESTART: u64 = 0x18;
const BUSY: u64 = 0x1c;
const HOOKS: u64 = 0x20;

/// The numbers of the parts with these registers.
const EXTRA_PART: u64 = 5;
const OPTIONAL_PART: u64 = 7;
const AHEAD_PART: u64 = 9;

/// The type of the same device without EXTRA and OPTIONAL.
const OLD: &str = "variants_old-all";

/// `VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2` and the flag that it enables.
const PRECOPY_INFO_V2: u32 = 12;
const REINIT: u32 = 1 << 0;

/// Returns the stream of the stopped device, which runs again afterwards.
fn save(dev: &Variant) -> Result<Vec<u8>> {
    let stream = dev.guest.save()?;
    dev.guest.v2()?.set_state(State::RUNNING)?;
    Ok(stream)
}

/// Loads a stream, and lets the device run.
fn load(dev: &Variant, stream: &[u8]) -> Result {
    dev.guest.load(stream, State::RUNNING)
}

/// Returns the numbers of the parts in a stream, or in the beginning of one.
fn numbers(stream: &[u8]) -> Vec<u64> {
    let stream = Stream::parse(stream).expect("whole records");
    let parts = stream.records.iter();
    parts
        .filter(|record| record.kind() == Some(Kind::Part))
        .map(|record| record.header.position)
        .collect()
}

fn p51_only_what_is_needed_is_sent(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for (extra, optional) in [(0, 0), (3, 0), (0, 4), (3, 4)] {
        let source = Variant::new(env, ALL.name)?;
        source.bar.write_u32(EXTRA, extra)?;
        source.bar.write_u32(OPTIONAL, optional)?;
        source.bar.write_u32(AHEAD, 5)?;
        let stream = save(&source)?;
        let mut expected = Vec::new();
        if extra != 0 {
            expected.push(EXTRA_PART);
        }
        if optional != 0 {
            expected.push(OPTIONAL_PART);
        }
        expected.push(AHEAD_PART);
        let mut found = numbers(&stream);
        found.sort_unstable();
        assert_eq!(found, expected);
        let target = Variant::new(env, ALL.name)?;
        load(&target, &stream)?;
        for (register, value) in [(EXTRA, extra), (OPTIONAL, optional), (AHEAD, 5)] {
            assert_eq!(target.bar.read_u32(register)?, value, "{register:#x}");
        }
        // The same bytes by v1.
        let target = Variant::new(env, ALL.name)?;
        let migration = target.guest.v1()?;
        migration.set_state(v1::State::RESUMING)?;
        migration.load_buffer(&stream)?;
        migration.set_state(v1::State::RUNNING)?;
        assert_eq!(target.bar.read_u32(EXTRA)?, extra);
        assert_eq!(target.bar.read_u32(OPTIONAL)?, optional);
    }
    Ok(())
}

fn p51_a_mandatory_part_that_is_not_known_is_refused(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let source = Variant::new(env, ALL.name)?;
    source.bar.write_u32(EXTRA, 3)?;
    let stream = save(&source)?;
    let target = Variant::new(env, OLD)?;
    let file = target.guest.begin(State::RESUMING)?;
    assert_refused!(
        env,
        target.guest.device.name(),
        file.write(&stream),
        EPROTONOSUPPORT,
        "unknown mandatory part 5",
    );
    target.guest.device.reset()?;
    target.work()
}

fn p51_an_optional_part_that_is_not_known_is_ignored(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let source = Variant::new(env, ALL.name)?;
    source.bar.write_u32(VALUE, 2)?;
    source.bar.write_u32(OPTIONAL, 3)?;
    source.bar.write_u32(AHEAD, 4)?;
    let target = Variant::new(env, OLD)?;
    load(&target, &save(&source)?)?;
    assert_eq!(target.bar.read_u32(VALUE)?, 2);
    assert_eq!(target.bar.read_u32(OPTIONAL)?, 0);
    assert_eq!(target.bar.read_u32(AHEAD)?, 4);
    target.work()
}

fn p51_a_state_without_a_part_is_loaded(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let source = Variant::new(env, OLD)?;
    source.bar.write_u32(VALUE, 2)?;
    source.bar.write_u32(EXTRA, 3)?;
    let target = Variant::new(env, ALL.name)?;
    load(&target, &save(&source)?)?;
    assert_eq!(target.bar.read_u32(VALUE)?, 2);
    assert_eq!(target.bar.read_u32(EXTRA)?, 0);
    target.work()
}

fn p49_a_part_with_wrong_contents_changes_nothing(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let source = Variant::new(env, ALL.name)?;
    source.bar.write_u32(EXTRA, 3)?;
    let whole = Stream::parse(&save(&source)?).expect("a stream");
    let at = whole.position(Kind::Part);
    for (length, errno) in [
        (0, libc::EPROTO),
        (1, libc::ENODATA),
        (3, libc::ENODATA),
        (5, libc::ERANGE),
    ] {
        let mut stream = whole.clone();
        stream.records[at].payload = vec![0; length];
        stream.seal();
        let target = Variant::new(env, ALL.name)?;
        target.bar.write_u32(VALUE, 6)?;
        let file = target.guest.begin(State::RESUMING)?;
        let refused = file.write(&stream.bytes()).expect_err("a refused stream");
        assert_eq!(refused.raw_os_error(), Some(errno), "{length} bytes");
        assert_eq!(target.bar.read_u32(VALUE)?, 6);
    }
    Ok(())
}

/// Reads all there is in pre-copy, and returns the numbers of the parts.
fn read_parts(file: &DataFd) -> Result<Vec<u64>> {
    let mut bytes = Vec::new();
    file.read_available(&mut bytes)?;
    // The first record of a later read has another number than 0.
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some((header, behind)) = rest.split_at_checked(32) {
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let length = u32::from_le_bytes(*header[4..].first_chunk().expect("a length"));
        if kind == Kind::Part as u16 {
            found.push(u64::from_le_bytes(
                *header[16..].first_chunk().expect("a position"),
            ));
        }
        rest = &behind[length as usize..];
    }
    Ok(found)
}

fn p45_a_part_is_sent_in_pre_copy(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let source = Variant::new(env, ALL.name)?;
    source.bar.write_u32(AHEAD, 1)?;
    source.bar.write_u32(EXTRA, 1)?;
    let migration = source.guest.v2()?;
    let file = source.guest.begin(State::PRE_COPY)?;
    assert!(file.precopy_info()?.initial_bytes > 36);
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    let info = file.precopy_info()?;
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 0));
    source.bar.write_u32(EXTRA, 2)?;
    let info = file.precopy_info()?;
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 0));
    source.bar.write_u32(AHEAD, 2)?;
    let info = file.precopy_info()?;
    assert_eq!(
        (info.flags, info.initial_bytes, info.dirty_bytes),
        (0, 0, 36)
    );
    file.read_available(&mut stream)?;
    source.bar.write_u32(AHEAD, 3)?;
    migration.set_state(State::STOP_COPY)?;
    file.read_available(&mut stream)?;
    assert_eq!(
        numbers(&stream),
        [AHEAD_PART, AHEAD_PART, EXTRA_PART, AHEAD_PART]
    );
    let target = Variant::new(env, ALL.name)?;
    load(&target, &stream)?;
    assert_eq!(target.bar.read_u32(AHEAD)?, 3);
    assert_eq!(target.bar.read_u32(EXTRA)?, 2);
    Ok(())
}

fn p45_pre_copy_starts_over(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for asked in [false, true] {
        let source = Variant::new(env, ALL.name)?;
        if asked {
            source.guest.device.feature_set(PRECOPY_INFO_V2, &mut [])?;
        }
        let flag = if asked { REINIT } else { 0 };
        let migration = source.guest.v2()?;
        let file = source.guest.begin(State::PRE_COPY)?;
        assert_eq!(file.precopy_info()?.flags, 0);
        assert_eq!(read_parts(&file)?, [AHEAD_PART]);
        source.bar.write_u32(AHEAD, 2)?;
        let info = file.precopy_info()?;
        assert_eq!(
            (info.flags, info.initial_bytes, info.dirty_bytes),
            (0, 0, 36)
        );
        source.bar.write_u32(RESTART, 0)?;
        // The flag stays until the data has been read and the user knows.
        for _ in 0..2 {
            let info = file.precopy_info()?;
            assert_eq!(
                (info.flags, info.initial_bytes, info.dirty_bytes),
                (flag, 36, 0)
            );
        }
        assert_eq!(read_parts(&file)?, [AHEAD_PART]);
        let info = file.precopy_info()?;
        assert_eq!(
            (info.flags, info.initial_bytes, info.dirty_bytes),
            (flag, 0, 0)
        );
        assert_eq!(file.precopy_info()?.flags, 0);
        // A user who reads first, and asks afterwards, sees it too.
        source.bar.write_u32(RESTART, 0)?;
        assert_eq!(read_parts(&file)?, [AHEAD_PART]);
        assert_eq!(file.precopy_info()?.flags, flag);
        assert_eq!(file.precopy_info()?.flags, 0);
        // What was restarted before a save is nothing new for it.
        migration.set_state(State::RUNNING)?;
        source.bar.write_u32(RESTART, 0)?;
        let file = source.guest.begin(State::PRE_COPY)?;
        assert_eq!(file.precopy_info()?.flags, 0);
    }
    Ok(())
}

fn p46_poll_wakes_when_a_part_changes(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    for register in [AHEAD, RESTART] {
        let source = Variant::new(env, ALL.name)?;
        let file = source.guest.begin(State::PRE_COPY)?;
        read_parts(&file)?;
        assert!(!file.wait_readable(Duration::ZERO)?);
        let waiter = file.try_clone()?;
        let waits = thread::spawn(move || waiter.wait_readable(crate::harness::check::PATIENCE));
        source.bar.write_u32(register, 1)?;
        assert!(waits.join().expect("a thread")?, "{register:#x}");
        assert_eq!(read_parts(&file)?, [AHEAD_PART]);
    }
    Ok(())
}

/// Returns how often a save began, a save ended, a load began, a load ended.
fn hooks(dev: &Variant) -> Result<[u8; 4]> {
    Ok(dev.bar.read_u32(HOOKS)?.to_le_bytes())
}

fn hooks_run_once_for_each_session(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    let migration = dev.guest.v2()?;
    assert_eq!(hooks(&dev)?, [0, 0, 0, 0]);
    migration.set_state(State::PRE_COPY)?;
    assert_eq!(hooks(&dev)?, [1, 0, 0, 0]);
    let stream = {
        let file = migration.set_state(State::STOP_COPY)?;
        assert!(file.is_none());
        assert_eq!(hooks(&dev)?, [1, 0, 0, 0]);
        migration.set_state(State::RUNNING)?;
        assert_eq!(hooks(&dev)?, [1, 1, 0, 0]);
        save(&dev)?
    };
    assert_eq!(hooks(&dev)?, [2, 2, 0, 0]);
    // By v1, ended by a reset.
    dev.guest.v1()?.set_state(v1::State::PRE_COPY)?;
    assert_eq!(hooks(&dev)?, [3, 2, 0, 0]);
    dev.guest.device.reset()?;
    assert_eq!(hooks(&dev)?, [3, 3, 0, 0]);
    // A load that succeeds, and one that does not.
    load(&dev, &stream)?;
    assert_eq!(hooks(&dev)?, [3, 3, 1, 1]);
    migration.set_state(State::RESUMING)?;
    assert_eq!(hooks(&dev)?, [3, 3, 2, 1]);
    assert_errno!(migration.set_state(State::STOP), ENODATA);
    assert_eq!(hooks(&dev)?, [3, 3, 2, 2]);
    Ok(())
}

fn p10_a_device_that_refuses_to_stop_runs_on(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    dev.bar.write_u32(BUSY, 1)?;
    let name = dev.guest.device.name();
    let migration = dev.guest.v2()?;
    for state in [State::STOP, State::RUNNING_P2P, State::STOP_COPY] {
        assert_refused!(env, name, migration.set_state(state), EBUSY, "BUSY is 1");
        assert_eq!(migration.state()?, State::RUNNING);
        dev.work()?;
    }
    let region = dev.guest.v1()?;
    for state in [v1::State::STOP, v1::State::STOP_AND_COPY] {
        assert_refused!(env, name, region.write_state(state), EBUSY, "BUSY is 1");
        assert_eq!(region.state()?, v1::State::RUNNING);
        dev.work()?;
    }
    // A save in pre-copy goes on.
    let file = dev.guest.begin(State::PRE_COPY)?;
    assert_refused!(
        env,
        name,
        migration.set_state(State::STOP_COPY),
        EBUSY,
        "BUSY is 1",
    );
    assert_eq!(migration.state()?, State::PRE_COPY);
    dev.work()?;
    dev.bar.write_u32(BUSY, 0)?;
    migration.set_state(State::STOP_COPY)?;
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    load(&Variant::new(env, ALL.name)?, &stream)?;
    // Nothing refuses a reset.
    migration.set_state(State::RUNNING)?;
    dev.bar.write_u32(BUSY, 1)?;
    dev.guest.device.reset()?;
    dev.work()
}

fn p10_a_driver_refuses_a_save_and_a_load(env: &Env) -> Result {
    let _module = Sample::load(env, "variants")?;
    let dev = Variant::new(env, ALL.name)?;
    let migration = dev.guest.v2()?;
    let name = dev.guest.device.name();
    dev.bar.write_u32(BUSY, 2)?;
    env.module.limit_log(false)?;
    assert_errno!(migration.set_state(State::PRE_COPY), EBUSY);
    assert_errno!(dev.guest.v1()?.write_state(v1::State::PRE_COPY), EBUSY);
    env.module.limit_log(true)?;
    assert_eq!(migration.state()?, State::RUNNING, "{name}");
    assert_eq!(hooks(&dev)?, [0, 0, 0, 0]);
    dev.work()?;
    dev.bar.write_u32(BUSY, 3)?;
    migration.set_state(State::STOP)?;
    assert_errno!(migration.set_state(State::RESUMING), EBUSY);
    assert_eq!(migration.state()?, State::STOP);
    assert_eq!(hooks(&dev)?, [0, 0, 0, 0]);
    migration.set_state(State::RUNNING)?;
    dev.work()?;
    // Neither has begun anything.
    dev.bar.write_u32(BUSY, 0)?;
    let stream = save(&dev)?;
    load(&dev, &stream)?;
    assert_eq!(hooks(&dev)?, [1, 1, 1, 1]);
    Ok(())
}
