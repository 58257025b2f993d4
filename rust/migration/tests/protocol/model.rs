// SPDX-License-Identifier: GPL-2.0

//! Random complete migrations: a device that keeps writing, a front end that stages buffers, a user who may not read a
//! buffer, and a destination that receives the stream in pieces. At the end, both devices must be equal.

use crate::device::Device;
use migration::save::{min_output, SaveSession};
use migration::stream::{Error, FLAG_AGAIN, HEADER_SIZE};
use proptest::prelude::*;

const PAGES: u64 = 150;

/// An event while the device runs.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    WriteRange(u64, u64, u8),
    Discard(u64),
    State(Vec<u8>),
    /// Stage a buffer of the minimal size plus this many bytes, read it, acknowledge it.
    Iterate(usize),
    /// Read the pending bytes.
    Ask,
}

/// What the user has done with the last buffer when the device stops (P23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Acknowledged,
    Read,
    Unread,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PAGES, any::<u8>()).prop_map(|(p, v)| Step::Write(p, v)),
        1 => (0..PAGES, 1..40u64, any::<u8>()).prop_map(|(p, n, v)| Step::WriteRange(p, n, v)),
        1 => (0..PAGES).prop_map(Step::Discard),
        1 => prop::collection::vec(any::<u8>(), 0..=256).prop_map(Step::State),
        4 => (0..3000usize).prop_map(Step::Iterate),
        1 => Just(Step::Ask),
    ]
}

fn last() -> impl Strategy<Value = Last> {
    prop_oneof![
        Just(Last::Acknowledged),
        Just(Last::Read),
        Just(Last::Unread)
    ]
}

/// The source side of one migration.
struct Run {
    source: Device,
    session: SaveSession<Vec<u8>>,
    /// The bytes that the user has sent.
    sent: Vec<u8>,
    /// The last buffer, until the user acknowledges it.
    staged: Option<Vec<u8>>,
}

impl Run {
    fn new(before: &[Step]) -> Run {
        let source = Device::new(PAGES);
        let mut run = Run {
            session: source.begin(),
            source,
            sent: Vec::new(),
            staged: None,
        };
        for step in before {
            if !matches!(step, Step::Iterate(_)) {
                run.step(step);
            }
        }
        run.session = run.source.begin();
        run
    }

    fn stage(&mut self, extra: usize) {
        let len = min_output(&self.source.identity) as usize + extra;
        let mut out = vec![0; len];
        let used = self.session.fill(&self.source, &mut out, len).unwrap();
        out.truncate(used);
        self.staged = (used > 0).then_some(out);
    }

    fn read(&mut self) {
        self.sent.extend(self.staged.iter().flatten());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(page, value) => self.source.write(*page, *value),
            Step::WriteRange(first, count, value) => {
                for page in *first..(first + count).min(PAGES) {
                    self.source.write(page, value.wrapping_add(page as u8));
                }
            }
            Step::Discard(page) => self.source.discard(*page),
            Step::State(state) => *self.source.state.borrow_mut() = state.clone(),
            Step::Iterate(extra) => {
                self.stage(*extra);
                self.read();
                self.staged = None;
            }
            Step::Ask => {
                let pending = self.session.pending(&self.source);
                assert_eq!(self.session.pending(&self.source), pending);
                // P22: the data that can be staged now, or 0.
                let has_data = self.session.has_data(&self.source);
                let remaining = self.session.remaining(&self.source);
                assert_eq!(pending, if has_data { remaining } else { 0 });
                assert!(remaining > 0);
            }
        }
    }

    /// Changes from pre-copy to stop-and-copy.
    fn stop(&mut self, last: Last) {
        match last {
            Last::Acknowledged => {}
            Last::Read => {
                self.stage(500);
                self.read();
            }
            Last::Unread => self.stage(500),
        }
        self.session.stop();
    }

    fn restage(&mut self) {
        if let Some(staged) = &mut self.staged {
            self.session.restage(&self.source, staged).unwrap();
            self.read();
        }
        self.staged = None;
    }

    /// Reads the remaining data in buffers of these additional sizes.
    fn drain(&mut self, sizes: &[usize]) {
        for extra in sizes.iter().cycle() {
            let before = self.session.pending(&self.source);
            self.stage(*extra);
            if self.staged.is_none() {
                assert!(self.session.is_complete());
                assert_eq!(before, 0);
                return;
            }
            assert!(before > 0);
            self.read();
        }
    }
}

fn load(target: &Device, stream: &[u8], cuts: &[usize]) -> Result<(), Error> {
    let mut session = target.loader();
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        let (piece, tail) = rest.split_at((*cut).min(rest.len()));
        session.feed(target, piece, piece.len())?;
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    session.finish(target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn p23_p25_p50_any_migration_moves_the_device(
        before in prop::collection::vec(step(), 0..30),
        running in prop::collection::vec(step(), 0..60),
        last in last(),
        sizes in prop::collection::vec(0..5000usize, 1..5),
        cuts in prop::collection::vec(1..900usize, 1..6),
    ) {
        let mut run = Run::new(&before);
        for step in &running {
            run.step(step);
        }
        run.stop(last);
        let had_staged = run.staged.is_some();
        run.restage();
        run.drain(&sizes);

        let target = Device::new(PAGES);
        prop_assert_eq!(load(&target, &run.sent, &cuts), Ok(()));
        target.assert_same(&run.source);
        prop_assert_eq!(run.session.stats().restaged, u64::from(had_staged));

        // A second load over the same contents results in the same device.
        prop_assert_eq!(load(&target, &run.sent, &[usize::MAX]), Ok(()));
        target.assert_same(&run.source);
    }

    /// Control: the destination detects a front end that drops the last buffer, or offers it again without FLAG_AGAIN.
    #[test]
    fn p23_a_front_end_that_does_not_restage_is_refused(
        before in prop::collection::vec(step(), 1..30),
        page in 0..PAGES,
        read in any::<bool>(),
    ) {
        let mut run = Run::new(&before);
        // Stage a second buffer, because the first one restarts the stream when it is sent again.
        run.step(&Step::Iterate(0));
        run.source.write(page, 1);
        run.stop(if read { Last::Read } else { Last::Unread });
        prop_assert!(run.staged.is_some());
        if read {
            // The front end offers the same bytes again.
            run.read();
        }
        run.staged = None;
        run.drain(&[1000]);
        let target = Device::new(PAGES);
        prop_assert!(load(&target, &run.sent, &[usize::MAX]).is_err());
        prop_assert_eq!(target.committed.get(), 0);
    }

    /// A pass copies only dirty pages.
    #[test]
    fn p22_only_what_is_dirty_is_copied(pages in prop::collection::btree_set(0..PAGES, 0..50)) {
        let mut run = Run::new(&[Step::WriteRange(0, PAGES, 1)]);
        while run.session.has_data(&run.source) {
            run.step(&Step::Iterate(5000));
        }
        let copied = run.source.copied.get();
        prop_assert_eq!(copied, run.source.identity.memory_size);
        for page in &pages {
            run.source.write(*page, 9);
        }
        run.stop(Last::Acknowledged);
        run.drain(&[5000]);
        let again = run.source.copied.get() - copied;
        prop_assert_eq!(again, pages.len() as u64 * 64);
    }
}

#[test]
fn p23_the_flag_is_all_that_differs() {
    let mut run = Run::new(&[Step::WriteRange(0, 20, 1)]);
    run.stop(Last::Unread);
    let before = run.staged.clone().unwrap();
    run.restage();
    let after = &run.sent;
    assert_eq!(before.len(), after.len());
    assert_eq!(after[2] ^ before[2], FLAG_AGAIN as u8);
    assert!(before[HEADER_SIZE..] == after[HEADER_SIZE..]);
    assert_eq!(before[3..HEADER_SIZE - 4], after[3..HEADER_SIZE - 4]);
}
