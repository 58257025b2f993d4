// SPDX-License-Identifier: GPL-2.0

//! A saved stream, and a device that loads modified copies of it.
//!
//! [`Bench::new`] first loads the intact stream with the same calls, so a later failure comes from the modification.

use migration::stream::Identity;
use vfio_client::v1::State;
use vfio_client::Error;

use crate::env::Env;
use crate::fixture::snapshot::Snapshot;
use crate::fixture::Fixture;
use crate::harness::result::{Ended, Result};
use records::Stream;

/// A saved stream, and a device that loads modified copies of it.
pub(crate) struct Bench {
    /// The device that loads the streams.
    pub(crate) fixture: Fixture,
    /// The saved stream.
    pub(crate) stream: Stream,
}

/// The mark of the device that refuses a stream.
const BEFORE: u32 = 0x3c;

/// The pages of device memory in the stream. They form two runs.
const PAGES: [u64; 3] = [3, 4, 9];

impl Bench {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let fixture = Fixture::new(env)?;
        fixture.fill_state(&PAGES)?;
        let stream = fixture.save_stream()?;
        fixture.device.reset()?;
        let bench = Bench { fixture, stream };
        // Check the load itself, with the saved stream and with the same stream parsed and sealed again.
        bench.accepted(&bench.stream, "the saved stream")?;
        let mut sealed = bench.stream.clone();
        sealed.seal();
        bench.accepted(&sealed, "the sealed stream")?;
        Ok(bench)
    }

    /// Loads a valid stream, compares the device with it, and resets the device.
    pub(crate) fn accepted(&self, stream: &Stream, what: &str) -> Result {
        let fixture = &self.fixture;
        if let Err(e) = fixture.load(&stream.bytes()) {
            crate::fail!("{what}: {e}");
        }
        fixture
            .snapshot()?
            .expect(&Snapshot::of(&self.stream)?, what);
        Ok(fixture.device.reset()?)
    }

    /// Loads bytes and ends the load. Returns the error, if any.
    pub(crate) fn attempt(&self, bytes: &[u8], piece: usize) -> Result<Option<Error>> {
        let fixture = &self.fixture;
        fixture.go(&[State::RESUMING])?;
        let mut first = None;
        for piece in bytes.chunks(piece) {
            first = fixture.migration.load_buffer(piece).err();
            if first.is_some() {
                break;
            }
        }
        let end = fixture.migration.write_state(State::RUNNING);
        Ok(match (first, end) {
            (Some(first), Err(end)) => {
                assert_eq!(
                    end.errno(),
                    first.errno(),
                    "the end of the load returns a different errno"
                );
                Some(first)
            }
            (Some(first), Ok(())) => panic!("the device runs after a refused load: {first}"),
            (None, Err(end)) => Some(end),
            (None, Ok(())) => None,
        })
    }

    /// Checks that the device refuses a stream with an errno and enters the error state, and that a reset makes it run
    /// again.
    pub(crate) fn refused(&self, bytes: &[u8], errno: i32, what: &str) -> Result {
        let fixture = &self.fixture;
        fixture.set_mark(BEFORE)?;
        for piece in [fixture.section(), 61] {
            let refusal = self.attempt(bytes, piece)?;
            let found = refusal.as_ref().map(|e| e.errno());
            assert_eq!(found, Some(Some(errno)), "{what}: {refusal:?}");
            assert_eq!(fixture.state()?, State::ERROR, "{what}");
            fixture.expect_mark(BEFORE, what);
            fixture.device.reset()?;
            fixture.set_mark(BEFORE)?;
            assert_eq!(fixture.state()?, State::RUNNING);
        }
        Ok(())
    }

    /// Modifies the stream, corrects sequence numbers, lengths, checksums and totals, and checks that the device
    /// refuses it.
    pub(crate) fn spoilt(
        &self,
        what: &str,
        errno: i32,
        change: impl FnOnce(&mut Stream),
    ) -> Result {
        let mut stream = self.stream.clone();
        change(&mut stream);
        stream.seal();
        self.refused(&stream.bytes(), errno, what)
    }

    /// Checks that the device still works.
    pub(crate) fn usable(&self) -> Result {
        self.accepted(&self.stream, "after the refused streams")?;
        self.fixture.usable()
    }

    /// Returns the identity of the stream.
    pub(crate) fn identity(&self) -> Result<Identity> {
        self.stream.identity().map_err(Ended::failed)
    }

    /// Returns the stream with another identity.
    pub(crate) fn with_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<Stream> {
        let mut stream = self.stream.clone();
        let mut identity = self.identity()?;
        change(&mut identity);
        stream.records[0].payload = identity.encode().to_vec();
        stream.seal();
        Ok(stream)
    }
}
