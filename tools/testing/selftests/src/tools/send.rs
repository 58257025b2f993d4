// SPDX-License-Identifier: GPL-2.0

//! `send()` and `receive()`: wherever the link breaks, exactly one device has the state and may run.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

use vfio_migrate::{
    receive, send, Failure, Kind, Link, Options, Protocol, Quiet, Received, Report, Until,
};

use crate::env::debugfs;
use crate::env::{Env, MEDIUM, SMALL};
use crate::fixture::bytes::{all_are, same};
use crate::fixture::{device, MdmaFixture};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;
use crate::tools::{fill, open, USED};

tests! { "send" needs [Mdma]:
    moves_the_state_live [],
    moves_the_state_stopped [],
    a_refusal_reaches_the_source_before_it_stops [],
    a_broken_link_leaves_the_source_running [],
    a_lost_ready_leaves_the_source_running [],
    a_lost_done_leaves_the_destination_running [],
}

/// A socket that closes after a number of bytes.
struct Cut {
    socket: UnixStream,
    left: usize,
    written: Arc<AtomicUsize>,
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.left);
        if n == 0 {
            self.socket.shutdown(Shutdown::Both)?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.socket.write(&bytes[..n])?;
        self.left -= n;
        self.written.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that each side can write before the link breaks.
#[derive(Clone, Copy)]
struct Limits {
    source: usize,
    destination: usize,
}

const UNLIMITED: Limits = Limits {
    source: usize::MAX,
    destination: usize::MAX,
};

/// The results of both sides.
struct Outcome {
    sent: Result<Report, Failure>,
    received: Result<Received, Failure>,
    /// Bytes that the source wrote.
    written: usize,
}

/// Sends a device to another.
fn migrate(
    source: &MdmaFixture<()>,
    destination: &MdmaFixture<()>,
    until: Until,
    limits: Limits,
) -> Result<Outcome> {
    let (here, there) = UnixStream::pair()?;
    let written = Arc::new(AtomicUsize::new(0));
    let link = |socket: UnixStream, left, written| -> io::Result<Link> {
        let input = socket.try_clone()?;
        let cut = Cut {
            socket,
            left,
            written,
        };
        Ok(Link::new(input, cut, PATIENCE))
    };
    let mut at_source = link(here, limits.source, written.clone())?;
    let mut at_destination = link(there, limits.destination, Arc::default())?;
    let options = Options {
        until,
        ..Options::default()
    };
    let device = destination.device.clone();
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            receive(
                &device,
                Protocol::Auto,
                None,
                &mut at_destination,
                &mut Quiet,
            )
        });
        let sent = send(&source.device, &mut at_source, &options, &mut Quiet);
        drop(at_source);
        (sent, receiver.join().expect("the receiver does not panic"))
    });
    Ok(Outcome {
        sent,
        received,
        written: written.load(Ordering::Relaxed),
    })
}

/// Checks that a device runs.
fn runs(fixture: &MdmaFixture<()>) -> Result<bool> {
    let migration = fixture.device.migration_v1()?.expect("mdma has v1");
    Ok(migration.state()? == vfio_client::v1::State::RUNNING)
}

/// Checks that the source continues with its state, and that the destination was reset.
fn not_moved(source: &MdmaFixture<()>, destination: &MdmaFixture<()>, what: &str) -> Result {
    assert!(runs(source)?, "{what}: the source is stopped");
    assert!(runs(destination)?, "{what}: the destination was not reset");
    let memory = destination.read_memory(0, USED)?;
    assert!(all_are(&memory, 0), "{what}: the destination has a state");
    let memory = source.read_memory(0, USED)?;
    assert!(
        !all_are(&memory, 0),
        "{what}: the source has lost its state"
    );
    Ok(())
}

/// Checks that the destination runs with the source's state, and that the source is stopped.
fn moved(source: &MdmaFixture<()>, destination: &MdmaFixture<()>) -> Result {
    assert!(!runs(source)?, "the source runs");
    assert!(runs(destination)?, "the destination does not run");
    let sent = source.read_memory(0, USED)?;
    let received = destination.read_memory(0, USED)?;
    same(&received, &sent, device(0), "device memory");
    Ok(())
}

fn moves(env: &Env, until: Until) -> Result {
    let (source, destination) = (open(env, SMALL)?, open(env, SMALL)?);
    fill(&source)?;
    let outcome = migrate(&source, &destination, until, UNLIMITED)?;
    let (sent, received) = (outcome.sent?, outcome.received?);
    let all = sent.pre_copy.bytes + sent.stop_and_copy.bytes;
    assert_eq!(received.loaded.bytes, all);
    assert_eq!(sent.pre_copy.bytes > 0, until != Until::None);
    moved(&source, &destination)
}

fn moves_the_state_live(env: &Env) -> Result {
    moves(env, Until::Passes(2))
}

fn moves_the_state_stopped(env: &Env) -> Result {
    moves(env, Until::None)
}

fn a_refusal_reaches_the_source_before_it_stops(env: &Env) -> Result {
    let (source, destination) = (open(env, MEDIUM)?, open(env, SMALL)?);
    fill(&source)?;
    let outcome = migrate(&source, &destination, Until::Passes(1), UNLIMITED)?;
    let refused = outcome.received.expect_err("another type");
    let failure = outcome.sent.expect_err("another type");
    assert_eq!(refused.kind, Kind::Refused);
    assert_eq!(failure.kind, Kind::Refused, "{failure}");
    assert!(failure.to_string().contains("EINVAL"), "{failure}");
    let notes = failure.notes.join("; ");
    assert!(
        notes.contains("destination: the destination was reset"),
        "{notes}"
    );
    assert!(notes.contains("the source runs again"), "{notes}");
    assert_eq!(debugfs::migration(source.uuid(), "stop_copy_bytes")?, 0);
    not_moved(&source, &destination, "refused")
}

fn a_broken_link_leaves_the_source_running(env: &Env) -> Result {
    let (source, destination) = (open(env, SMALL)?, open(env, SMALL)?);
    fill(&source)?;
    let whole = {
        let other = open(env, SMALL)?;
        fill(&other)?;
        migrate(&other, &destination, Until::Passes(1), UNLIMITED)?.written
    };
    destination.device.reset()?;
    // Commit and Bye, of 5 bytes each, come last.
    let commit = whole - 10;
    for cut in [
        0,
        1,
        21,
        22,
        whole / 3,
        whole / 2,
        commit - 5,
        commit,
        commit + 4,
    ] {
        let limits = Limits {
            source: cut,
            ..UNLIMITED
        };
        let outcome = migrate(&source, &destination, Until::Passes(1), limits)?;
        let what = format!("cut after {cut} of {whole} bytes");
        let failure = outcome.sent.expect_err(&what);
        assert_eq!(failure.kind, Kind::Failed, "{what}: {failure}");
        assert!(outcome.received.is_err(), "{what}");
        not_moved(&source, &destination, &what)?;
    }
    // Neither device was harmed.
    migrate(&source, &destination, Until::Passes(1), UNLIMITED)?.sent?;
    moved(&source, &destination)
}

fn a_lost_ready_leaves_the_source_running(env: &Env) -> Result {
    let (source, destination) = (open(env, SMALL)?, open(env, SMALL)?);
    fill(&source)?;
    // Hello has 21 bytes, Switch and Ready 5 each.
    for cut in [0, 20, 21, 25, 26, 30] {
        let limits = Limits {
            destination: cut,
            ..UNLIMITED
        };
        let outcome = migrate(&source, &destination, Until::Passes(1), limits)?;
        let what = format!("cut after {cut} bytes of the destination");
        let failure = outcome.sent.expect_err(&what);
        assert_eq!(failure.kind, Kind::Failed, "{what}: {failure}");
        assert!(outcome.received.is_err(), "{what}");
        not_moved(&source, &destination, &what)?;
    }
    Ok(())
}

fn a_lost_done_leaves_the_destination_running(env: &Env) -> Result {
    for cut in [31, 35] {
        let (source, destination) = (open(env, SMALL)?, open(env, SMALL)?);
        fill(&source)?;
        let limits = Limits {
            destination: cut,
            ..UNLIMITED
        };
        let outcome = migrate(&source, &destination, Until::Passes(1), limits)?;
        let failure = outcome.sent.expect_err("Done is lost");
        assert_eq!(failure.kind, Kind::Undecided, "{failure}");
        outcome.received?;
        moved(&source, &destination)?;
    }
    Ok(())
}
