// SPDX-License-Identifier: GPL-2.0

//! Every sequence of events up to a fixed length: changes of state by v1 and by v2, resets, writes by the device and
//! reads by the user, with the sessions that the arcs open and close. After each sequence, an open save must still
//! complete as a valid stream.

use crate::device::{Device, ENOMEM};
use migration::load::LoadSession;
use migration::save::{min_output, SaveSession};
use migration::state::State;
use migration::transition::{v1_write, v2_transition, Action, Transition};

/// About 200,000 sequences, or 10,000 in a slow debug build.
const LENGTH: u32 = if cfg!(debug_assertions) { 3 } else { 4 };
const PAGES: u64 = 3;

/// An event.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A write to `device_state`.
    V1(u32),
    /// A direct transition of v2.
    V2(State),
    /// `VFIO_DEVICE_RESET`.
    Reset,
    /// The device writes a page, if it runs.
    Write,
    /// The user stages a buffer if none is staged.
    Stage,
    /// The user reads the staged buffer.
    Read,
    /// The user reads and acknowledges the staged buffer.
    Acknowledge,
    /// The first fallible action of the next transition fails.
    Fail,
}

fn events() -> Vec<Event> {
    let v1 = (0..8).map(Event::V1);
    let v2 = State::ALL.into_iter().map(Event::V2);
    v1.chain(v2)
        .chain([
            Event::Reset,
            Event::Write,
            Event::Stage,
            Event::Read,
            Event::Acknowledge,
            Event::Fail,
        ])
        .collect()
}

/// A device and a front end that executes the actions of the arcs.
struct FrontEnd {
    device: Device,
    state: State,
    runs: bool,
    may_dma: bool,
    save: Option<SaveSession<Vec<u8>>>,
    prepared: bool,
    load: Option<LoadSession<Vec<u8>>>,
    /// The unacknowledged buffer, and whether the user has read it.
    staged: Option<(Vec<u8>, bool)>,
    /// The bytes that the user sent in all sessions. A destination loads the last session (P50).
    sent: Vec<u8>,
    failing: bool,
}

impl FrontEnd {
    fn new() -> Self {
        let device = Device::new(PAGES);
        device.write(0, 1);
        *device.state.borrow_mut() = vec![1, 2, 3];
        FrontEnd {
            device,
            state: State::Running,
            runs: true,
            may_dma: true,
            save: None,
            prepared: false,
            load: None,
            staged: None,
            sent: Vec::new(),
            failing: false,
        }
    }

    fn end(&mut self) {
        (self.save, self.load, self.prepared) = (None, None, false);
        self.staged = None;
    }

    fn act(&mut self, action: Action) -> Result<(), i32> {
        if action.is_fallible() && std::mem::take(&mut self.failing) {
            if action == Action::CommitLoad {
                self.end();
            }
            return Err(ENOMEM);
        }
        match action {
            Action::BeginSave => {
                assert!(self.save.is_none() && self.load.is_none());
                self.save = Some(self.device.begin());
            }
            Action::PrepareLoad => {
                assert!(self.save.is_none() && !self.prepared);
                self.prepared = true;
            }
            Action::QuiescePeer => {
                assert!(self.runs && self.may_dma);
                self.may_dma = false;
            }
            Action::QuiesceAll => {
                assert!(self.runs);
                (self.runs, self.may_dma) = (false, false);
            }
            Action::RunPeer => self.runs = true,
            Action::Run => (self.runs, self.may_dma) = (true, true),
            Action::StopSave => {
                assert!(!self.runs);
                self.save.as_mut().expect("a save is open").stop();
            }
            Action::Restage => {
                if let (Some((staged, read)), Some(save)) = (&mut self.staged, &mut self.save) {
                    save.restage(&self.device, staged).unwrap();
                    *read = false;
                }
            }
            Action::EndSave => {
                assert!(self.save.is_some());
                self.end();
            }
            Action::BeginLoad => {
                assert!(self.prepared && !self.runs);
                self.device.pages.borrow_mut().clear();
                self.load = Some(self.device.loader());
            }
            Action::RestartLoad => {
                let load = self.load.as_mut().expect("a load is open");
                assert!(!load.is_broken(), "a load without data is broken");
            }
            Action::CommitLoad => {
                let mut load = self.load.take().expect("a load is open");
                // A load without data is incomplete.
                let result = load.finish(&self.device);
                self.end();
                return result.map_err(|e| e.errno());
            }
        }
        Ok(())
    }

    fn change(&mut self, transition: &Transition) {
        assert_eq!(transition.from, self.state);
        for (number, action) in transition.actions.iter().enumerate() {
            if self.act(*action).is_err() {
                assert_eq!(number, 0, "{transition:?}");
                self.state = transition.on_failure();
                return;
            }
        }
        self.state = transition.to;
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::V1(bits) => {
                if let Ok(transition) = v1_write(self.state, bits) {
                    self.change(&transition);
                }
            }
            Event::V2(to) => {
                // v2 stages a buffer only when the user reads it, so it has no buffer to offer again.
                if self.staged.is_some() && self.state == State::PreCopyP2p {
                    self.read();
                    self.staged = None;
                }
                if let Ok(transition) = v2_transition(self.state, to) {
                    self.change(&transition);
                }
            }
            Event::Reset => {
                self.end();
                self.device.pages.borrow_mut().clear();
                (self.runs, self.may_dma) = (true, true);
                self.state = State::Running;
            }
            Event::Write if self.runs => self.device.write(1, 7),
            Event::Write => {}
            Event::Stage => self.stage(),
            Event::Read => self.read(),
            Event::Acknowledge => {
                self.read();
                self.staged = None;
            }
            Event::Fail => self.failing = true,
        }
    }

    fn stage(&mut self) {
        let Some(save) = &mut self.save else { return };
        if self.staged.is_some() {
            return;
        }
        let len = min_output(&self.device.identity) as usize;
        let mut out = vec![0; len];
        let used = save.fill(&self.device, &mut out, len).unwrap();
        out.truncate(used);
        self.staged = (used > 0).then_some((out, false));
    }

    fn read(&mut self) {
        if let Some((staged, read)) = &mut self.staged {
            if !std::mem::replace(read, true) {
                self.sent.extend(&*staged);
            }
        }
    }

    /// Checks the invariants of the current state.
    fn check(&self) {
        let state = self.state;
        if state != State::Error {
            assert_eq!(self.runs, state.is_running(), "{state}");
            assert_eq!(self.may_dma, state.may_dma(), "{state}");
        }
        assert!(state != State::Error || !self.runs);
        assert_eq!(self.save.is_some(), state.is_saving(), "{state}");
        assert_eq!(self.load.is_some(), state.is_resuming(), "{state}");
        assert_eq!(self.prepared, state.is_resuming(), "{state}");
    }

    /// Completes an open save and loads its stream.
    fn finish(mut self) {
        if !self.state.is_saving() {
            return;
        }
        self.failing = false;
        if self.state == State::PreCopyP2p {
            self.take(Event::V2(State::StopCopy));
        } else {
            self.take(Event::V1(State::StopCopy.to_v1()));
        }
        assert_eq!(self.state, State::StopCopy);
        loop {
            self.take(Event::Acknowledge);
            self.stage();
            if self.staged.is_none() {
                break;
            }
        }
        let target = Device::new(PAGES);
        target.load(&self.sent).unwrap();
        target.assert_same(&self.device);
    }
}

#[test]
fn p10_p23_every_sequence_of_events() {
    let events = events();
    let mut seen = std::collections::HashSet::new();
    for number in 0..events.len().pow(LENGTH) {
        let mut front_end = FrontEnd::new();
        let mut rest = number;
        for _ in 0..LENGTH {
            front_end.take(events[rest % events.len()]);
            front_end.check();
            rest /= events.len();
        }
        seen.insert(front_end.state);
        front_end.finish();
    }
    assert_eq!(seen.len(), State::ALL.len());
}
