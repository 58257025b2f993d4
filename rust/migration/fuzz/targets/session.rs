// SPDX-License-Identifier: GPL-2.0

//! Saves and loads in any order of calls: a device that goes on writing, buffers of any size that are read or not,
//! copies that fail, and a destination that is fed what the user sent. In the end both devices are the same.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../tests/protocol/device.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod device;

use device::{Device, STATE_MAX};
use libfuzzer_sys::fuzz_target;
use migration::save::{min_output, SaveSession};

const PAGES: u64 = 70;
/// Calls of one input.
const MOST: usize = 300;

/// A save under way.
struct Run {
    source: Device,
    session: SaveSession<Vec<u8>>,
    /// What the user has sent.
    sent: Vec<u8>,
    /// The buffer staged last, while it is not acknowledged, and whether it was read.
    staged: Option<(Vec<u8>, bool)>,
    stopped: bool,
    /// Something was made to fail in this call: what was begun then is behind what counts.
    failing: bool,
}

impl Run {
    fn stage(&mut self, extra: usize) {
        if self.staged.is_some() {
            return;
        }
        let len = min_output(&self.source.identity) as usize + extra;
        let mut out = vec![0xee; len];
        match self.session.fill(&self.source, &mut out, len) {
            Ok(used) => {
                assert!(self.failing || out[used..].iter().all(|byte| *byte == 0xee));
                out.truncate(used);
                self.staged = (used > 0).then_some((out, false));
            }
            Err(error) => {
                assert!(self.failing);
                assert_eq!(error.errno(), device::ENOMEM);
            }
        }
    }

    fn read(&mut self) {
        if let Some((bytes, read)) = &mut self.staged {
            if !*read {
                self.sent.extend(&*bytes);
                *read = true;
            }
        }
    }

    /// The user has read it, and says so.
    fn acknowledge(&mut self) {
        self.read();
        self.staged = None;
    }

    fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        self.session.stop();
        if let Some((bytes, _)) = &mut self.staged {
            self.session
                .restage(&self.source, bytes)
                .expect("a copy in memory");
            let again = bytes.clone();
            self.sent.extend(again);
            self.staged = None;
        }
    }

    fn looks(&self) {
        let pending = self.session.pending(&self.source);
        assert_eq!(self.session.pending(&self.source), pending);
        let info = self.session.precopy_info(&self.source);
        assert!(info.initial_bytes == 0 || !self.session.is_complete());
        assert_eq!(pending == 0, !self.session.has_data(&self.source));
        let remaining = self.session.remaining(&self.source);
        assert_eq!(remaining == 0, self.session.is_complete());
        assert!(pending == 0 || pending == remaining);
    }
}

fuzz_target!(|input: &[u8]| {
    let source = Device::new(PAGES);
    // The length says which kind of stream, so that any input can be of both.
    let checked = input.len() % 3 != 1;
    let mut run = Run {
        session: source.begin().with_checksums(checked),
        source,
        sent: Vec::new(),
        staged: None,
        stopped: false,
        failing: false,
    };
    let mut cuts = vec![4096];
    for call in input.chunks_exact(3).take(MOST) {
        let [op, a, b] = [call[0], call[1], call[2]];
        let number = usize::from(a) << 4 | usize::from(b) >> 4;
        let page = u64::from(a) % PAGES;
        match op % 12 {
            // A stopped device changes nothing.
            0 | 1 if !run.stopped => run.source.write(page, b),
            2 if !run.stopped => {
                for page in page..(page + u64::from(b % 16)).min(PAGES) {
                    run.source.write(page, b);
                }
            }
            3 if !run.stopped => run.source.discard(page),
            4 if !run.stopped => {
                let state = vec![a; usize::from(b) * STATE_MAX / 255];
                *run.source.state.borrow_mut() = state;
            }
            5 | 6 => run.stage(number),
            7 => run.read(),
            8 => run.acknowledge(),
            9 => run.looks(),
            10 if b % 16 == 0 => run.stop(),
            10 => cuts.push(1 + usize::from(a)),
            11 => {
                let cell = match b % 2 {
                    0 => &run.source.fail_copy,
                    _ => &run.source.fail_put,
                };
                cell.set(Some(u32::from(a % 4)));
                run.failing = true;
                run.stage(number);
                run.failing = false;
                run.source.fail_copy.set(None);
                run.source.fail_put.set(None);
            }
            _ => {}
        }
    }
    run.stop();
    while !run.session.is_complete() {
        run.looks();
        run.stage(1000);
        assert!(run.staged.is_some(), "incomplete, and nothing comes");
        run.acknowledge();
    }
    // What was staged after the stop and not acknowledged was read just now.
    run.acknowledge();
    run.looks();

    let target = Device::new(PAGES);
    target.write(3, 3);
    target.pages.borrow_mut().clear();
    let mut session = target.loader();
    let mut rest = &run.sent[..];
    for cut in cuts.iter().cycle() {
        let (piece, tail) = rest.split_at((*cut).min(rest.len()));
        session
            .feed(&target, piece, piece.len())
            .expect("the stream that was saved");
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    session.finish(&target).expect("all of the stream");
    target.assert_same(&run.source);
});
