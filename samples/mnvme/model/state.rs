// SPDX-License-Identifier: GPL-2.0

//! The saved state: layout and checks.
//!
//! [`visit`] declares the layout once, for [`encode`], [`decode`] and the data sheet. A saved state is
//! untrusted: [`decode`] accepts it only if a device can reach that state, and then [`encode`] returns
//! the same bytes.

use crate::command::ENTRY_SIZE;
use crate::controller::State;
use crate::event::{self, REQUESTS_MAX};
use crate::feature::{Features, FEATURES};
use crate::job::{Job, RANGES_MAX};
use crate::log::ErrorEntry;
use crate::queue::{self, CompletionQueue, SubmissionQueue, COMPLETION_SIZE};
use crate::regs::{AQA_MASK, BASE_MASK, CC_EN, CC_FIXED, CC_MASK, CC_SHN, VECTORS};
use crate::QUEUES;
use core::fmt;

/// Size of a saved state in bytes.
pub const SIZE: usize = 888;

/// Version of the layout.
pub const VERSION: u32 = 1;

/// A field whose value no device can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// Name of the field.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidField { field, value } = self;
        write!(f, "saved state: {field} {value:#x} is invalid")
    }
}

/// Goes through the fields of a state in the order of the layout.
pub trait Visitor {
    /// Why it ends early.
    type Error;

    /// Visits a field of `size` bytes.
    fn field(
        &mut self,
        name: &'static str,
        size: usize,
        value: &mut u64,
    ) -> Result<(), Self::Error>;
}

/// A value of a field.
trait Value: Copy {
    const SIZE: usize;
    fn to_u64(self) -> u64;
    fn from_u64(value: u64) -> Self;
}

macro_rules! value {
    ($($type:ty)*) => { $(
        impl Value for $type {
            const SIZE: usize = size_of::<$type>();
            fn to_u64(self) -> u64 {
                self.into()
            }
            fn from_u64(value: u64) -> Self {
                value as $type
            }
        }
    )* };
}
value!(u8 u16 u32 u64);

impl Value for bool {
    const SIZE: usize = 1;
    fn to_u64(self) -> u64 {
        self.into()
    }
    fn from_u64(value: u64) -> Self {
        value != 0
    }
}

/// Visits one field.
fn field<V: Visitor>(
    visitor: &mut V,
    name: &'static str,
    value: &mut impl Value,
) -> Result<(), V::Error> {
    fn of<T: Value>(_: &T) -> usize {
        T::SIZE
    }
    fn set<T: Value>(value: &mut T, new: u64) {
        *value = T::from_u64(new);
    }
    let mut number = value.to_u64();
    visitor.field(name, of(value), &mut number)?;
    set(value, number);
    Ok(())
}

/// Visits fields of a structure.
macro_rules! fields {
    ($visitor:ident, $($name:literal: $value:expr,)*) => {
        $(field($visitor, $name, &mut $value)?;)*
    };
}

/// Visits all fields of a state. All numbers are little endian, without gaps.
pub fn visit<V: Visitor>(state: &mut State, visitor: &mut V) -> Result<(), V::Error> {
    fields!(visitor,
        "cc": state.cc,
        "ready": state.ready,
        "fatal": state.fatal,
        "shutdown": state.shutdown,
        "mask": state.mask,
        "aqa": state.aqa,
        "asq": state.asq,
        "acq": state.acq,
    );
    for sq in &mut state.sq {
        visit_submission(sq, visitor)?;
    }
    for cq in &mut state.cq {
        fields!(visitor,
            "cq.base": cq.base,
            "cq.entries": cq.entries,
            "cq.head": cq.head,
            "cq.tail": cq.tail,
            "cq.phase": cq.phase,
            "cq.vector": cq.vector,
            "cq.interrupts": cq.interrupts,
        );
    }
    for value in &mut state.features.values {
        fields!(visitor, "features.value": *value,);
    }
    fields!(visitor,
        "features.under": state.features.under,
        "features.uncoalesced": state.features.uncoalesced,
    );
    for cid in &mut state.events.requests {
        fields!(visitor, "events.request": *cid,);
    }
    fields!(visitor,
        "events.count": state.events.count,
        "events.pending": state.events.pending,
        "events.masked": state.events.masked,
        "errors.count": state.errors.count,
    );
    for entry in &mut state.errors.entries {
        fields!(visitor,
            "error.number": entry.number,
            "error.sq": entry.sq,
            "error.cid": entry.cid,
            "error.status": entry.status,
            "error.lba": entry.lba,
            "error.nsid": entry.nsid,
        );
    }
    fields!(visitor,
        "counters.blocks_read": state.counters.blocks_read,
        "counters.blocks_written": state.counters.blocks_written,
        "counters.reads": state.counters.reads,
        "counters.writes": state.counters.writes,
    );
    Ok(())
}

/// Visits a submission queue. Without a job, the fields of the job are 0.
fn visit_submission<V: Visitor>(sq: &mut SubmissionQueue, visitor: &mut V) -> Result<(), V::Error> {
    let mut has_job = sq.job.is_some();
    let mut job = sq.job.unwrap_or_default();
    fields!(visitor,
        "sq.base": sq.base,
        "sq.entries": sq.entries,
        "sq.head": sq.head,
        "sq.tail": sq.tail,
        "sq.cq": sq.cq,
        "sq.has_job": has_job,
        "job.cid": job.cid,
        "job.ranges": job.ranges,
        "job.index": job.index,
        "job.slba": job.slba,
        "job.left": job.left,
        "job.prp1": job.prp1,
        "job.prp2": job.prp2,
        "job.aborted": job.aborted,
    );
    // Fields without a job stay, for the check.
    sq.job = (has_job || job != Job::default()).then_some(job);
    Ok(())
}

/// Writes fields to `put`.
struct Encoder<P>(P);

impl<E, P: FnMut(&[u8]) -> Result<(), E>> Visitor for Encoder<P> {
    type Error = E;

    fn field(&mut self, _name: &'static str, size: usize, value: &mut u64) -> Result<(), E> {
        (self.0)(&value.to_le_bytes()[..size])
    }
}

/// Encodes a state: hands its fields to `put`, [`SIZE`] bytes in all.
pub fn encode<E>(state: &State, put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut state = *state;
    visit(&mut state, &mut Encoder(put))
}

/// Why a state is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError<E> {
    /// The bytes could not be read.
    Input(E),
    /// A field is invalid.
    Invalid(InvalidField),
}

impl<E> From<InvalidField> for DecodeError<E> {
    fn from(invalid: InvalidField) -> Self {
        DecodeError::Invalid(invalid)
    }
}

/// Reads fields from `get`.
struct Decoder<G> {
    get: G,
    /// Whether the queue has a job.
    job: bool,
}

impl<E, G: FnMut(&mut [u8]) -> Result<(), E>> Visitor for Decoder<G> {
    type Error = DecodeError<E>;

    fn field(
        &mut self,
        name: &'static str,
        size: usize,
        value: &mut u64,
    ) -> Result<(), Self::Error> {
        let mut bytes = [0; 8];
        (self.get)(&mut bytes[..size]).map_err(DecodeError::Input)?;
        *value = u64::from_le_bytes(bytes);
        if BOOLS.contains(&name) {
            ensure(*value <= 1, name, *value)?;
        }
        if name == "sq.has_job" {
            self.job = *value != 0;
        }
        if name.starts_with("job.") {
            ensure(self.job || *value == 0, name, *value)?;
        }
        Ok(())
    }
}

/// Fields that are 0 or 1.
const BOOLS: [&str; 7] = [
    "ready",
    "fatal",
    "shutdown",
    "sq.has_job",
    "job.aborted",
    "cq.phase",
    "cq.interrupts",
];

/// Decodes a state that `get` reads, and checks it for a device with `blocks` blocks.
pub fn decode<E>(
    blocks: u64,
    get: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<State, DecodeError<E>> {
    let mut state = State::default();
    visit(&mut state, &mut Decoder { get, job: false })?;
    check(&state, blocks)?;
    Ok(state)
}

/// Refuses a field that is not legal.
fn ensure(legal: bool, field: &'static str, value: impl Into<u64>) -> Result<(), InvalidField> {
    match legal {
        true => Ok(()),
        false => Err(InvalidField {
            field,
            value: value.into(),
        }),
    }
}

/// Checks that a device with `blocks` blocks can have this state.
fn check(state: &State, blocks: u64) -> Result<(), InvalidField> {
    let enabled = state.cc & CC_EN != 0;
    ensure(state.cc & !CC_MASK == 0, "cc", state.cc)?;
    ensure(enabled || !state.ready, "ready", state.ready)?;
    ensure(enabled || !state.fatal, "fatal", state.fatal)?;
    ensure(!enabled || state.ready || state.fatal, "ready", state.ready)?;
    ensure(
        state.shutdown || state.cc & CC_SHN == 0,
        "shutdown",
        state.shutdown,
    )?;
    ensure(state.mask >> VECTORS == 0, "mask", state.mask)?;
    ensure(u64::from(state.aqa) & !AQA_MASK == 0, "aqa", state.aqa)?;
    ensure(state.asq & !BASE_MASK == 0, "asq", state.asq)?;
    ensure(state.acq & !BASE_MASK == 0, "acq", state.acq)?;
    check_admin_queues(state)?;
    for (number, sq) in state.sq.iter().enumerate() {
        check_submission(state, number, sq, blocks)?;
    }
    for cq in &state.cq {
        check_completion(cq)?;
    }
    check_features(state)?;
    check_events(state)?;
    for (number, entry) in state.errors.entries.iter().enumerate() {
        check_error(state.errors.count, number as u64, entry)?;
    }
    Ok(())
}

/// The admin queues follow from the registers; without them there are no queues.
fn check_admin_queues(state: &State) -> Result<(), InvalidField> {
    if !state.ready {
        for (sq, cq) in state.sq.iter().zip(&state.cq) {
            ensure(!sq.exists(), "sq.entries", sq.entries)?;
            ensure(!cq.exists(), "cq.entries", cq.entries)?;
        }
        return Ok(());
    }
    ensure(state.cc & CC_FIXED == 0, "cc", state.cc)?;
    let queues = state.admin_queues();
    let (sq, cq) = queues.ok_or(InvalidField {
        field: "aqa",
        value: state.aqa.into(),
    })?;
    let (saved_sq, saved_cq) = (&state.sq[0], &state.cq[0]);
    ensure(saved_sq.base == sq.base, "sq.base", saved_sq.base)?;
    ensure(
        saved_sq.entries == sq.entries,
        "sq.entries",
        saved_sq.entries,
    )?;
    ensure(saved_cq.base == cq.base, "cq.base", saved_cq.base)?;
    ensure(
        saved_cq.entries == cq.entries,
        "cq.entries",
        saved_cq.entries,
    )?;
    ensure(saved_cq.vector == 0, "cq.vector", saved_cq.vector)?;
    ensure(saved_cq.interrupts, "cq.interrupts", saved_cq.interrupts)
}

fn check_submission(
    state: &State,
    number: usize,
    sq: &SubmissionQueue,
    blocks: u64,
) -> Result<(), InvalidField> {
    if !sq.exists() {
        // Where nothing is, nothing may be saved.
        ensure(*sq == SubmissionQueue::default(), "sq.entries", sq.entries)?;
        return Ok(());
    }
    let legal = queue::legal(sq.entries.into(), sq.base, ENTRY_SIZE);
    ensure(legal, "sq.base", sq.base)?;
    ensure(sq.head < sq.entries, "sq.head", sq.head)?;
    ensure(sq.tail < sq.entries, "sq.tail", sq.tail)?;
    let cq = state.cq.get(usize::from(sq.cq));
    let legal = (sq.cq == 0) == (number == 0) && cq.is_some_and(CompletionQueue::exists);
    ensure(legal, "sq.cq", sq.cq)?;
    match &sq.job {
        Some(job) => {
            ensure(number != 0, "sq.has_job", true)?;
            check_job(job, blocks)
        }
        None => Ok(()),
    }
}

fn check_job(job: &Job, blocks: u64) -> Result<(), InvalidField> {
    let end = job.slba.checked_add(job.left);
    ensure(end.is_some_and(|end| end <= blocks), "job.slba", job.slba)?;
    if job.ranges == 0 {
        // Write Zeroes counts its blocks by 16 bits.
        ensure((1..=1 << 16).contains(&job.left), "job.left", job.left)?;
        ensure(job.index == 0, "job.index", job.index)?;
        ensure(job.prp1 == 0, "job.prp1", job.prp1)?;
        return ensure(job.prp2 == 0, "job.prp2", job.prp2);
    }
    ensure(job.ranges <= RANGES_MAX, "job.ranges", job.ranges)?;
    ensure(job.index <= job.ranges, "job.index", job.index)?;
    ensure(job.left <= u32::MAX.into(), "job.left", job.left)?;
    ensure(
        job.left != 0 || job.index < job.ranges,
        "job.left",
        job.left,
    )
}

fn check_completion(cq: &CompletionQueue) -> Result<(), InvalidField> {
    if !cq.exists() {
        return ensure(*cq == CompletionQueue::default(), "cq.entries", cq.entries);
    }
    let legal = queue::legal(cq.entries.into(), cq.base, COMPLETION_SIZE);
    ensure(legal, "cq.base", cq.base)?;
    ensure(cq.head < cq.entries, "cq.head", cq.head)?;
    ensure(cq.tail < cq.entries, "cq.tail", cq.tail)?;
    ensure(cq.vector < VECTORS, "cq.vector", cq.vector)
}

fn check_features(state: &State) -> Result<(), InvalidField> {
    let features = &state.features;
    for (value, feature) in features.values.iter().zip(&FEATURES) {
        ensure(value & !feature.mask == 0, "features.value", *value)?;
    }
    let uncoalesced = features.uncoalesced;
    ensure(
        uncoalesced >> VECTORS == 0,
        "features.uncoalesced",
        uncoalesced,
    )?;
    let default = state.ready || *features == Features::default();
    ensure(default, "features.value", features.values[0])
}

fn check_events(state: &State) -> Result<(), InvalidField> {
    let events = &state.events;
    let count = usize::from(events.count);
    ensure(count <= REQUESTS_MAX, "events.count", events.count)?;
    for cid in &events.requests[count..] {
        ensure(*cid == 0, "events.request", *cid)?;
    }
    ensure(
        events.pending >> event::ALL.len() == 0,
        "events.pending",
        events.pending,
    )?;
    ensure(events.masked >> 2 == 0, "events.masked", events.masked)?;
    let none = state.ready || (events.count, events.pending, events.masked) == (0, 0, 0);
    ensure(none, "events.count", events.count)
}

/// The newest error has the number of all errors, the next one the number before.
fn check_error(count: u64, place: u64, entry: &ErrorEntry) -> Result<(), InvalidField> {
    let number = count.saturating_sub(place);
    ensure(entry.number == number, "error.number", entry.number)?;
    ensure(usize::from(entry.sq) < ERROR_QUEUES, "error.sq", entry.sq)?;
    ensure(entry.status >> 15 == 0, "error.status", entry.status)?;
    let empty = number != 0 || *entry == ErrorEntry::default();
    ensure(empty, "error.number", entry.number)
}

/// Doorbells of that many queue pairs fit into BAR 0.
const ERROR_QUEUES: usize = 512;

const _: () = assert!(QUEUES <= ERROR_QUEUES);
