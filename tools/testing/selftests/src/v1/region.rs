// SPDX-License-Identifier: GPL-2.0

//! The v1 migration region: its index, its registers, and all accesses that it refuses.

use vfio_client::uapi::{
    VFIO_PCI_NUM_REGIONS, VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
    VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
};
use vfio_client::v1::{offset, State};
use vfio_client::{v2, Area, Protection};

use crate::env::Env;
use crate::fixture::v2::V2;
use crate::fixture::{Fixture, MdmaFixture, PAGE};
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "v1_region":
    p01_type_3_1_behind_the_pci_regions ["P1"],
    p02_registers_match_the_structure ["P2"],
    p03_every_offset_and_length_in_every_state ["P3"],
    p03_edges_of_pages_and_of_the_region ["P3"],
    no_bytes_are_no_access [],
    p03_refusals_are_logged ["P3"],
    p04_reserved_reads_0_and_ignores_writes ["P4"],
    p05_read_only_registers ["P5"],
    p05_data_size_is_written_only_while_resuming ["P5"],
    p06_the_header_page_cannot_be_mapped ["P6"],
    p27_data_offset_is_the_start_of_the_one_area ["P27"],
    p28_mapped_and_trapped_are_the_same_bytes ["P28"],
    p28_mapping_can_be_turned_off ["P28"] needs [Mdma],
    p29_refused_mappings ["P29"],
    p29_bytes_never_written_read_0 ["P29"],
}

/// Whether a register is writable in a state.
type Written = fn(State) -> bool;

/// The registers of the protocol: offset, width, and in which states each is writable.
const REGISTERS: [(u64, usize, Written); 5] = [
    (0, 4, |_| true),
    (4, 4, |_| true),
    (8, 8, |_| false),
    (16, 8, |_| false),
    (24, 8, |state| state == State::RESUMING),
];

/// The states, and the path to each from the running state.
const STATES: [(State, &[State]); 6] = [
    (State::RUNNING, &[]),
    (State::STOP, &[State::STOP]),
    (State::PRE_COPY, &[State::PRE_COPY]),
    (State::STOP_AND_COPY, &[State::STOP_AND_COPY]),
    (State::RESUMING, &[State::RESUMING]),
    (State::ERROR, &[State::RESUMING]),
];

/// Brings a running device into a state. A load without data leads to the error state.
pub(crate) fn reach(fixture: &Fixture, state: State) -> Result {
    let (_, path) = STATES.iter().find(|(s, _)| *s == state).expect("a state");
    fixture.go(path)?;
    if state == State::ERROR {
        assert_errno!(fixture.migration.write_state(State::RUNNING), ENODATA);
    }
    assert_eq!(fixture.state()?, state);
    Ok(())
}

/// All states.
pub(crate) fn states() -> impl Iterator<Item = State> {
    STATES.iter().map(|(state, _)| *state)
}

fn p01_type_3_1_behind_the_pci_regions(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let kind = Some((
        VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
        VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
    ));
    assert_eq!(kind, Some((3, 1)));
    let regions = fixture.device.regions()?;
    let ours: Vec<_> = regions
        .iter()
        .filter(|r| r.info().region_type == kind)
        .collect();
    assert_eq!(ours.len(), 1, "regions of type 3/1");
    let info = ours[0].info();
    assert!(info.index >= VFIO_PCI_NUM_REGIONS, "index {}", info.index);
    assert!(info.index < fixture.device.info().num_regions);
    assert!(info.readable() && info.writable());
    assert!(
        info.size > 4096 && info.size % 4096 == 0,
        "size {:#x}",
        info.size
    );
    Ok(())
}

fn p02_registers_match_the_structure(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    // Distinct values identify the registers: the state, and the three registers of a staged buffer.
    assert_eq!(region.read_u32(0)?, 1);
    fixture.go(&[State::PRE_COPY])?;
    assert_eq!(region.read_u32(0)?, 3);
    assert_eq!(region.read_u32(4)?, 0);
    let pending = region.read_u64(8)?;
    let at = region.read_u64(16)?;
    let size = region.read_u64(24)?;
    assert!(pending > 0);
    assert_eq!(at, fixture.data_offset());
    assert!(size > 0 && size <= pending, "{size} of {pending} bytes");
    // The offsets are those of the C structure.
    let fields = [
        offset::DEVICE_STATE,
        offset::RESERVED,
        offset::PENDING_BYTES,
        offset::DATA_OFFSET,
        offset::DATA_SIZE,
    ];
    assert_eq!(fields, [0, 4, 8, 16, 24]);
    Ok(())
}

/// What a refused access must not change. Taking it has no side effect: `pending_bytes` is read only if no buffer is
/// staged, because the read would consume the buffer.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    data_size: u64,
    staged: Vec<u8>,
    pending: Option<u64>,
}

fn look(fixture: &Fixture) -> Result<Seen> {
    let region = fixture.migration.region();
    let data_size = region.read_u64(offset::DATA_SIZE)?;
    let mut staged = vec![0; data_size.min(256) as usize];
    if !staged.is_empty() {
        region.read(fixture.data_offset(), &mut staged)?;
    }
    Ok(Seen {
        state: fixture.state()?,
        data_size,
        pending: if data_size == 0 {
            Some(region.read_u64(offset::PENDING_BYTES)?)
        } else {
            None
        },
        staged,
    })
}

/// Makes all accesses to the header that the device must refuse, and checks the device after each.
fn refuse_all(fixture: &Fixture, offsets: impl Iterator<Item = u64> + Clone, what: &str) -> Result {
    let region = fixture.migration.region();
    let end = region.info().size;
    let data = fixture.data_offset();
    let before = look(fixture)?;
    // The bytes of a different, legal state.
    let other = if before.state == State::RUNNING {
        0u8
    } else {
        1
    };
    for at in offsets {
        // An access of no bytes has no effect.
        assert_eq!(region.pread(at, &mut [])?, 0, "{what}: at {at:#x}");
        assert_eq!(region.pwrite(at, &[])?, 0, "{what}: at {at:#x}");
        assert_eq!(look(fixture)?, before, "{what}: no bytes at {at:#x}");
        for len in 1..=40usize {
            let inside = at >= data && at + len as u64 <= end;
            let register = REGISTERS.iter().find(|(o, w, _)| (*o, *w) == (at, len));
            if !inside && register.is_none() {
                let mut out = vec![0xee; len];
                let result = region.pread(at, &mut out);
                assert_errno!(result, EINVAL, "{what}: read of {len} bytes at {at:#x}");
                assert!(
                    out.iter().all(|b| *b == 0xee),
                    "a refused read returned bytes"
                );
            }
            let written = register.is_some_and(|(_, _, written)| written(before.state));
            if !inside && !written {
                let mut bytes = vec![0; len];
                if let Some(first) = bytes.first_mut() {
                    *first = other;
                }
                let result = region.pwrite(at, &bytes);
                assert_errno!(result, EINVAL, "{what}: write of {len} bytes at {at:#x}");
            }
            if !inside {
                assert_eq!(look(fixture)?, before, "{what}: {len} bytes at {at:#x}");
            }
        }
    }
    Ok(())
}

fn p03_every_offset_and_length_in_every_state(env: &Env) -> Result {
    for state in states() {
        let fixture = Fixture::new(env)?;
        fixture.write_pages([0], 7)?;
        reach(&fixture, state)?;
        refuse_all(&fixture, 0..=40, &format!("{state:?}"))?;
        if state == State::PRE_COPY || state == State::STOP_AND_COPY {
            // Repeat with a staged buffer. No access consumes or replaces it.
            fixture.migration.data_offset()?;
            assert!(look(&fixture)?.data_size > 0);
            refuse_all(&fixture, 0..=40, &format!("{state:?}, staged"))?;
        }
        fixture.device.reset()?;
    }
    Ok(())
}

fn p03_edges_of_pages_and_of_the_region(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let (data, end) = (fixture.data_offset(), region.info().size);
    for state in states() {
        reach(&fixture, state)?;
        // Accesses from the header into the data section, and across the end of the region.
        refuse_all(&fixture, data - 41..data, &format!("{state:?}"))?;
        refuse_all(&fixture, end - 40..=end + 1, &format!("{state:?}"))?;
        // The last bytes of the section are readable with any length and alignment.
        for len in 1..=40 {
            let mut out = vec![0; len];
            assert_eq!(region.pread(end - len as u64, &mut out)?, len);
        }
        fixture.device.reset()?;
    }
    // Accesses far beyond the end, up to the start of the next region, never reach another region.
    for at in [end + PAGE, 1 << 32, (1 << 40) - 8, (1 << 40) - 4] {
        assert_errno!(region.pread(at, &mut [0; 16]), EINVAL, "read at {at:#x}");
        assert_errno!(region.pwrite(at, &[0; 16]), EINVAL, "write at {at:#x}");
    }
    let far = region.info().size as usize + 1;
    assert_errno!(
        region.pread(data, &mut vec![0; far]),
        EINVAL,
        "a read longer than the region"
    );
    Ok(())
}

/// An access of no bytes returns 0 at any offset. Earlier, some regions refused and logged it, and a data file filled
/// its buffer.
fn no_bytes_are_no_access(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages([1], 1)?;
    let everything = || -> Result {
        for index in 0..=12u64 {
            for at in [0, 1, 2, 8, 24, 4095, 1 << 20, (1 << 40) - 1] {
                let at = (index << 40) | at;
                assert_eq!(v2.device.pread(at, &mut [])?, 0, "read at {at:#x}");
                assert_eq!(v2.device.pwrite(at, &[])?, 0, "write at {at:#x}");
            }
        }
        v2.expect_mark(1, "after accesses of no bytes");
        Ok(())
    };
    everything()?;
    let fd = v2.begin(v2::State::PRE_COPY)?;
    everything()?;
    let info = fd.precopy_info()?;
    assert_eq!(fd.read(&mut [])?, 0);
    assert_eq!(
        fd.precopy_info()?,
        info,
        "a read of no bytes took data from the device"
    );
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    // It does not return ENOMSG either.
    assert_eq!(fd.read(&mut [])?, 0);
    v2.to(v2::State::RUNNING)?;
    assert_eq!(
        fd.read(&mut [])?,
        0,
        "a read of no bytes after the session ended"
    );
    let fd = v2.begin(v2::State::RESUMING)?;
    everything()?;
    assert_eq!(fd.write(&[])?, 0);
    v2.reset()
}

fn p03_refusals_are_logged(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let uuid = fixture.uuid();
    assert_refused!(env, uuid, region.pread(0, &mut [0; 8]), EINVAL, "width");
    assert_refused!(
        env,
        uuid,
        region.pread(2, &mut [0; 2]),
        EINVAL,
        "no register"
    );
    assert_refused!(
        env,
        uuid,
        region.pwrite(8, &[0; 8]),
        EINVAL,
        "pending_bytes"
    );
    assert_refused!(env, uuid, region.pwrite(24, &[0; 8]), EINVAL, "resuming");
    let end = region.info().size;
    assert_refused!(
        env,
        uuid,
        region.pread(end - 1, &mut [0; 2]),
        EINVAL,
        "outside"
    );
    Ok(())
}

fn p04_reserved_reads_0_and_ignores_writes(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    for state in states() {
        reach(&fixture, state)?;
        for value in [0, 1, 0x8000_0000, u32::MAX] {
            region.write_u32(offset::RESERVED, value)?;
            assert_eq!(region.read_u32(offset::RESERVED)?, 0, "{state:?}");
            assert_eq!(fixture.state()?, state);
        }
        fixture.device.reset()?;
    }
    Ok(())
}

fn p05_read_only_registers(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    for state in states() {
        reach(&fixture, state)?;
        let before = look(&fixture)?;
        for value in [0, 1, before.pending.unwrap_or(4096), u64::MAX] {
            for at in [offset::PENDING_BYTES, offset::DATA_OFFSET] {
                assert_errno!(
                    region.write_u64(at, value),
                    EINVAL,
                    "{state:?}: {value} at {at}"
                );
            }
        }
        assert_eq!(look(&fixture)?, before, "{state:?}");
        fixture.device.reset()?;
    }
    Ok(())
}

fn p05_data_size_is_written_only_while_resuming(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for state in states().filter(|s| *s != State::RESUMING) {
        reach(&fixture, state)?;
        let before = look(&fixture)?;
        for size in [0, 1, 32, fixture.section() as u64, u64::MAX] {
            let result = fixture.migration.write_data_size(size);
            assert_errno!(result, EINVAL, "{state:?}: data_size {size}");
        }
        assert_eq!(look(&fixture)?, before, "{state:?}");
        fixture.device.reset()?;
    }
    Ok(())
}

fn p06_the_header_page_cannot_be_mapped(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let info = region.info();
    // A mappable region must list its areas. Without a list, a user may map all of it.
    let areas = info.sparse.as_deref().unwrap_or_default();
    assert_eq!(info.areas(), areas);
    assert!(areas.iter().all(|a| a.offset >= 4096), "{areas:?}");
    for state in states() {
        reach(&fixture, state)?;
        for size in [1, 32, PAGE, 2 * PAGE, info.size] {
            for protection in [Protection::READ, Protection::READ_WRITE] {
                let area = Area { offset: 0, size };
                let result = region.mmap(area, protection);
                assert_errno!(result, EINVAL, "{state:?}: {size} bytes, {protection:?}");
            }
        }
        fixture.device.reset()?;
    }
    Ok(())
}

fn p27_data_offset_is_the_start_of_the_one_area(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let mut seen = Vec::new();
    for state in states() {
        reach(&fixture, state)?;
        for _ in 0..3 {
            seen.push(fixture.migration.data_offset()?);
        }
        fixture.device.reset()?;
    }
    let at = seen[0];
    assert!(
        seen.iter().all(|other| *other == at),
        "data_offset changed: {seen:x?}"
    );
    assert!(at != 0 && at % PAGE == 0, "data_offset {at:#x}");
    let size = region.info().size - at;
    match region.info().sparse.as_deref() {
        Some(areas) => assert_eq!(areas, [Area { offset: at, size }]),
        None => assert_eq!(region.info().areas(), []),
    }
    Ok(())
}

fn p28_mapped_and_trapped_are_the_same_bytes(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let Some(mapping) = fixture.migration.mapping() else {
        crate::skip!("the module was loaded without mappable staging");
    };
    let (at, len) = (fixture.data_offset(), fixture.section());
    let mut rng = fastrand::Rng::with_seed(28);
    // Both directions, at the edges and in the middle, with different widths.
    for state in [State::RESUMING, State::RUNNING] {
        fixture.go(if state == State::RESUMING {
            &[State::RESUMING]
        } else {
            &[]
        })?;
        for _ in 0..200 {
            let size = *rng
                .choice([1, 2, 3, 8, 31, 4096, 70_000].iter())
                .expect("some");
            let from = rng.usize(..=len - size);
            let bytes = crate::fixture::bytes::random_bytes(&mut rng, size);
            let mut back = vec![0; size];
            if rng.bool() {
                mapping.write(from, &bytes);
                region.read(at + from as u64, &mut back)?;
            } else {
                region.write(at + from as u64, &bytes)?;
                mapping.read(from, &mut back);
            }
            assert!(
                back == bytes,
                "{size} bytes at {from:#x} of the section, {state:?}"
            );
        }
        fixture.device.reset()?;
    }
    Ok(())
}

fn p28_mapping_can_be_turned_off(env: &Env) -> Result {
    env.module.with("mmap_data_section=0", || {
        let fixture = MdmaFixture::new(env)?;
        let info = fixture.migration.region().info();
        assert_eq!(info.areas(), []);
        assert_eq!(info.sparse, None);
        assert_eq!(info.region_type, Some((3, 1)));
        let area = Area {
            offset: PAGE,
            size: PAGE,
        };
        let result = fixture.migration.region().mmap(area, Protection::READ);
        assert_errno!(result, EINVAL);
        // The device still migrates.
        fixture.write_memory(5, b"without a mapping")?;
        let bytes = fixture.save()?;
        fixture.device.reset()?;
        fixture.load(&bytes)?;
        assert_eq!(fixture.read_memory(5, 17)?, b"without a mapping");
        Ok(())
    })
}

fn p29_refused_mappings(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let Some(mapping) = fixture.migration.mapping() else {
        crate::skip!("the module was loaded without mappable staging");
    };
    let (at, len) = (fixture.data_offset(), fixture.section() as u64);
    let private = |write| Protection {
        read: true,
        write,
        exec: false,
        shared: false,
    };
    let exec = Protection {
        exec: true,
        ..Protection::READ
    };
    let write_exec = Protection {
        exec: true,
        ..Protection::READ_WRITE
    };
    for (offset, size, protection, why) in [
        (0, PAGE, Protection::READ_WRITE, "the header"),
        (0, PAGE + len, Protection::READ_WRITE, "header and section"),
        (at, len + PAGE, Protection::READ_WRITE, "past the section"),
        (at + len, PAGE, Protection::READ, "after the section"),
        (
            at + len - PAGE,
            2 * PAGE,
            Protection::READ,
            "across the end",
        ),
        (
            (1 << 40) - PAGE,
            PAGE,
            Protection::READ,
            "the last page of the region's offsets",
        ),
        (at, PAGE, private(true), "private and writable"),
    ] {
        let result = region.mmap(Area { offset, size }, protection);
        assert_errno!(result, EINVAL, "mmap: {why}");
    }
    // The kernel itself refuses executable mappings: a device file is on a noexec file system.
    for protection in [exec, write_exec] {
        let area = Area {
            offset: at,
            size: PAGE,
        };
        assert_errno!(region.mmap(area, protection), EPERM, "mmap: {protection:?}");
    }
    // The refusals above had the expected reason: the device accepts these similar mappings.
    for (offset, size) in [(at, PAGE), (at, len), (at + len - PAGE, PAGE)] {
        region.mmap(Area { offset, size }, Protection::READ_WRITE)?;
        region.mmap(Area { offset, size }, Protection::READ)?;
    }
    mapping.write(0, b"still there");
    assert_eq!(mapping.to_vec(0, 11), b"still there");
    Ok(())
}

fn p29_bytes_never_written_read_0(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    let (at, len) = (fixture.data_offset(), fixture.section());
    let zeros = |when: &str, from: usize| -> Result {
        let mut out = vec![0xee; len - from];
        region.read(at + from as u64, &mut out)?;
        assert!(out.iter().all(|b| *b == 0), "trapped, {when}");
        if let Some(mapping) = fixture.migration.mapping() {
            let out = mapping.to_vec(from, len - from);
            assert!(out.iter().all(|b| *b == 0), "mapped, {when}");
        }
        Ok(())
    };
    zeros("unused", 0)?;
    fixture.go(&[State::STOP_AND_COPY])?;
    zeros("nothing staged", 0)?;
    fixture.migration.pending_bytes()?;
    fixture.migration.data_offset()?;
    let size = fixture.migration.data_size()? as usize;
    assert!(
        size < len,
        "the state of a device with empty memory fills the section"
    );
    zeros("after the staged buffer", size)?;
    fixture.device.reset()?;
    zeros("after the buffer that was staged before a reset", size)?;
    // The next user does not see this user's data.
    region.write(at, b"secret")?;
    let instance = {
        drop(fixture.close());
        env.instance(env.subject())?
    };
    let fixture = Fixture::of(crate::env::Guest::open(instance)?)?;
    let mut out = vec![0xee; len];
    fixture.migration.region().read(at, &mut out)?;
    assert!(out.iter().all(|b| *b == 0), "another instance");
    drop(fixture);

    let fixture = Fixture::new(env)?;
    fixture.migration.region().write(at, b"secret")?;
    let fixture = Fixture::of(crate::env::Guest::open(fixture.close())?)?;
    let mut out = vec![0xee; len];
    fixture.migration.region().read(at, &mut out)?;
    assert!(
        out.iter().all(|b| *b == 0),
        "the same instance, opened again"
    );
    Ok(())
}
