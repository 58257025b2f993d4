// SPDX-License-Identifier: GPL-2.0

//! The saved state: layout and checks.
//!
//! [`encode`] writes the whole state of a device except its memory and its keys into [`SIZE`] bytes;
//! [`decode`] reads it back. The keys of registered memory follow, each as a [`SavedKey`]. A saved state is untrusted: [`decode`] accepts it only if a device can reach that
//! state, and then [`encode`] returns the same bytes.

use crate::control::State;
use crate::desc::{self, Descriptor, Error, Field, Op, Operand, DESCRIPTOR_SIZE, ERRORS};
use crate::engine::{check_keys, Job, CRC_SEED, UNIT};
pub use crate::invalid::InvalidField;
use crate::key::{Keys, SavedKey, MAX_KEYS, SAVED_KEY_SIZE};
use crate::layout::Decoder;
use crate::list::Cursor;
use crate::refused;
use crate::regs::{Reg, CONTROL_ENABLE};

/// Size of a saved state in bytes, without keys.
pub const SIZE: usize = 176;

/// Size of a saved state with all keys.
pub const SIZE_MAX: usize = SIZE + MAX_KEYS * SAVED_KEY_SIZE;

/// Version of the layout.
pub const VERSION: u32 = 4;

/// Bit of `flags`: the queue is enabled.
const ENABLED: u32 = CONTROL_ENABLE;
/// Bit of `flags`: a job is in flight.
const JOB: u32 = 1 << 1;

/// Layout of a saved state. All numbers are little endian.
#[rustfmt::skip]
pub const LAYOUT: [Field; 23] = [
    Field { name: "flags", offset: 0, size: 4, meaning: "Bit 0: CONTROL.ENABLE. Bit 1: a job is in flight. Others 0." },
    Field { name: "error", offset: 4, size: 4, meaning: "ERROR; not 0 means halted." },
    Field { name: "cause", offset: 8, size: 4, meaning: "INT_CAUSE." },
    Field { name: "mask", offset: 12, size: 4, meaning: "INT_MASK." },
    Field { name: "ring_base", offset: 16, size: 8, meaning: "RING_BASE." },
    Field { name: "completion_base", offset: 24, size: 8, meaning: "COMPLETION_BASE." },
    Field { name: "ring_order", offset: 32, size: 4, meaning: "RING_ORDER." },
    Field { name: "throttle", offset: 36, size: 4, meaning: "THROTTLE." },
    Field { name: "head", offset: 40, size: 4, meaning: "HEAD." },
    Field { name: "tail", offset: 44, size: 4, meaning: "TAIL." },
    Field { name: "jobs_done", offset: 48, size: 8, meaning: "JOBS_DONE." },
    Field { name: "bytes_done", offset: 56, size: 8, meaning: "BYTES_DONE." },
    Field { name: "scratch", offset: 64, size: 8, meaning: "SCRATCH." },
    Field { name: "job.done", offset: 72, size: 8, meaning: "Processed bytes of the job in flight: above 0 and below its len, and without a list a multiple of 64 KiB." },
    Field { name: "job.crc", offset: 80, size: 4, meaning: "CRC of the bytes processed, not inverted." },
    Field { name: "refused", offset: 84, size: 4, meaning: "REFUSED." },
    Field { name: "job.descriptor", offset: 88, size: 64, meaning: "The descriptor of the job in flight. This and the fields of the job are 0 without one." },
    Field { name: "job.src_entry", offset: 152, size: 4, meaning: "SRC_LIST: index of the entry at which the job continues. Otherwise 0." },
    Field { name: "job.src_at", offset: 156, size: 4, meaning: "SRC_LIST: processed bytes of that entry. Otherwise 0." },
    Field { name: "job.dst_entry", offset: 160, size: 4, meaning: "DST_LIST: index of the entry at which the job continues. Otherwise 0." },
    Field { name: "job.dst_at", offset: 164, size: 4, meaning: "DST_LIST: processed bytes of that entry. Otherwise 0." },
    Field { name: "keys.next", offset: 168, size: 4, meaning: "The key that the next REGISTER gets, unless it is in use. Not 0." },
    Field { name: "keys.count", offset: 172, size: 4, meaning: "The number of keys that follow." },
];

const _: () = assert!(desc::dense(&LAYOUT, SIZE));

/// The registers in the fields from the second one on.
#[rustfmt::skip]
const REGISTERS: [Reg; 12] = [
    Reg::Error, Reg::IntCause, Reg::IntMask, Reg::RingBase, Reg::CompletionBase, Reg::RingOrder,
    Reg::Throttle, Reg::Head, Reg::Tail, Reg::JobsDone, Reg::BytesDone, Reg::Scratch,
];

/// Returns the name of the field that holds a register.
fn name(reg: Reg) -> &'static str {
    let at = REGISTERS.iter().position(|&other| other == reg);
    at.map_or("refused", |at| LAYOUT[1 + at].name)
}

/// Encodes a state. A job that registers or deregisters starts over where the state is loaded.
pub fn encode(state: &State, keys: Keys) -> [u8; SIZE] {
    let job = state.job.as_ref().filter(|job| job.moves_data());
    let flags = state[Reg::Control] as u32 | job.map_or(0, |_| JOB);

    let mut bytes = [0; SIZE];
    let mut end = 0;
    let mut put = |field: &[u8]| {
        bytes[end..end + field.len()].copy_from_slice(field);
        end += field.len();
    };
    put(&flags.to_le_bytes());
    for reg in REGISTERS {
        put(&state[reg].to_le_bytes()[..reg.row().width as usize]);
    }
    put(&job.map_or(0, |job| job.done).to_le_bytes());
    put(&job.map_or(0, |job| job.crc).to_le_bytes());
    put(&(state[Reg::Refused] as u32).to_le_bytes());
    put(&job.map_or([0; DESCRIPTOR_SIZE], |job| job.desc.encode()));
    for cursor in job.map_or([Cursor::default(); 2], |job| [job.src, job.dst]) {
        put(&cursor.entry.to_le_bytes());
        put(&cursor.at.to_le_bytes());
    }
    put(&keys.next.to_le_bytes());
    put(&keys.count.to_le_bytes());
    bytes
}

/// Decodes and checks a saved state for a device with `memory_size` bytes of memory. The error is
/// the first field with an impossible value.
pub fn decode(bytes: &[u8; SIZE], memory_size: u64) -> Result<(State, Keys), InvalidField> {
    let mut from = Decoder(bytes);
    let mut state = State::new(memory_size, 0);
    let flags = from.u32();
    state[Reg::Control] = u64::from(flags & ENABLED);
    for reg in REGISTERS {
        state[reg] = match reg.row().width {
            4 => from.u32().into(),
            _ => from.u64(),
        };
    }
    let (done, crc) = (from.u64(), from.u32());
    state[Reg::Refused] = from.u32().into();
    let desc: [u8; DESCRIPTOR_SIZE] = from.take();
    let mut cursor = || Cursor {
        entry: from.u32(),
        at: from.u32(),
    };
    let (src, dst) = (cursor(), cursor());
    let keys = Keys {
        next: from.u32(),
        count: from.u32(),
    };

    let ensure_reg = |legal, reg| ensure(legal, name(reg), state[reg]);
    ensure_reg(state[Reg::Error] < ERRORS.len() as u64, Reg::Error)?;
    ensure(flags & !(ENABLED | JOB) == 0, "flags", flags)?;
    ensure_reg(refused::possible(state[Reg::Refused]), Reg::Refused)?;
    if flags & JOB != 0 {
        let desc = Descriptor::decode(&desc)
            .and_then(|desc| desc.check(memory_size).map(|()| desc))
            .map_err(|error| invalid("job.descriptor", error as u32))?;
        let job = Job {
            desc,
            done,
            crc,
            src,
            dst,
        };
        check_job(&job)?;
        state.job = Some(job);
    } else {
        ensure(done == 0, "job.done", done)?;
        ensure(crc == 0, "job.crc", crc)?;
        ensure(desc == [0; DESCRIPTOR_SIZE], "job.descriptor", 0u64)?;
        ensure(src == Cursor::default(), "job.src_entry", src.entry)?;
        ensure(dst == Cursor::default(), "job.dst_entry", dst.entry)?;
    }
    ensure(keys.next != 0, "keys.next", keys.next)?;
    let limit = MAX_KEYS as u32;
    ensure(keys.count <= limit, "keys.count", keys.count)?;
    check(&state)?;
    Ok((state, keys))
}

/// Checks that the job in flight accesses registered memory only as it may. `find` returns a key.
pub fn check_job_keys(
    state: &State,
    mut find: impl FnMut(u32) -> Option<SavedKey>,
) -> Result<(), InvalidField> {
    let Some(job) = &state.job else { return Ok(()) };
    check_keys(&job.desc, |key, offset, write| {
        let saved = find(key).ok_or(Error::BadKey)?;
        saved.memory().check_access(offset, job.desc.len, write)
    })
    .map_err(|error| invalid("job.descriptor", error as u32))
}

/// Checks that a device can be in the middle of a job.
fn check_job(job: &Job) -> Result<(), InvalidField> {
    let (desc, done) = (&job.desc, job.done);
    // A job is saved only after its first unit and before its last one.
    let between_units = job.moves_data()
        && 0 < done
        && done < desc.len
        && (desc.has_list() || done % UNIT as u64 == 0);
    ensure(between_units, "job.done", done)?;
    let crc_possible = job.crc == CRC_SEED || desc.op == Op::Crc32c;
    ensure(crc_possible, "job.crc", job.crc)?;
    for (operand, cursor, field) in [
        (desc.source(), job.src, "job.src_entry"),
        (desc.destination(), job.dst, "job.dst_entry"),
    ] {
        let possible = match operand {
            Some(Operand::List(list)) => cursor.possible(list.entries, done),
            Some(Operand::At(_)) | None => cursor == Cursor::default(),
        };
        ensure(possible, field, cursor.entry)?;
    }
    Ok(())
}

/// Checks that the registers agree with each other.
fn check(state: &State) -> Result<(), InvalidField> {
    let ensure_reg = |legal, reg| ensure(legal, name(reg), state[reg]);
    for reg in [Reg::IntCause, Reg::IntMask, Reg::Throttle, Reg::RingOrder] {
        ensure_reg(state[reg] <= reg.row().max, reg)?;
    }
    if !state.enabled() {
        for reg in [Reg::Error, Reg::Head, Reg::Tail] {
            ensure_reg(state[reg] == 0, reg)?;
        }
        return ensure(state.job.is_none(), "flags", JOB);
    }

    let ring = state.ring().map_err(|reg| invalid(name(reg), state[reg]))?;
    for reg in [Reg::Head, Reg::Tail] {
        ensure_reg(ring.contains(state[reg] as u32), reg)?;
    }
    let halted_job = state.halted() && state.job.is_some();
    ensure(!halted_job, "flags", ENABLED | JOB)?;
    // The queue works on or halts at a submitted descriptor, unless software halted it.
    let at_descriptor = state.halted() && state[Reg::Error] != Error::BadTail as u64;
    if at_descriptor || state.job.is_some() {
        ensure_reg(state[Reg::Head] != state[Reg::Tail], Reg::Tail)?;
    }
    Ok(())
}

/// Returns the error for a field and its value.
fn invalid(field: &'static str, value: impl Into<u64>) -> InvalidField {
    InvalidField {
        field,
        value: value.into(),
    }
}

/// Returns an error for the field unless `legal`.
fn ensure(legal: bool, field: &'static str, value: impl Into<u64>) -> Result<(), InvalidField> {
    legal.then_some(()).ok_or_else(|| invalid(field, value))
}
