// SPDX-License-Identifier: GPL-2.0

//! A saved stream, and a device that loads modified copies of it.
//!
//! [`Bench::new`] first loads the intact stream with the same calls, so a later failure comes from the modification.

use mdma::regs::Reg;
use migration::stream::Identity;
use vfio_client::v1::State;
use vfio_client::Error;

use crate::env::Env;
use crate::fixture::bytes::random_bytes;
use crate::fixture::{device, run_jobs, Fixture, PAGE};
use crate::harness::result::Result;
use records::Stream;

/// A saved stream, and a device that loads modified copies of it.
pub(crate) struct Bench {
    /// The device that loads the streams.
    pub(crate) fixture: Fixture,
    /// The saved stream.
    pub(crate) stream: Stream,
}

/// The pages of device memory in the stream. They form two runs.
const PAGES: [u64; 3] = [3, 4, 9];

impl Bench {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let fixture = Fixture::new(env)?;
        let mut rng = fastrand::Rng::with_seed(49);
        for page in PAGES {
            fixture.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
        }
        fixture.mdma.set(Reg::Scratch, 0x4950_5152)?;
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
        assert_eq!(fixture.mdma.get(Reg::Scratch)?, 0x4950_5152, "{what}");
        let len = 16 * PAGE as usize;
        let found = fixture.read_memory(0, len)?;
        crate::fixture::bytes::same(&found, &self.stream.memory(len), device(0), what);
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
        let before = fixture.registers()?;
        for piece in [fixture.section(), 61] {
            let refusal = self.attempt(bytes, piece)?;
            let found = refusal.as_ref().map(|e| e.errno());
            assert_eq!(found, Some(Some(errno)), "{what}: {refusal:?}");
            assert_eq!(fixture.state()?, State::ERROR, "{what}");
            let diff = fixture.registers()?.diff(&before);
            assert!(diff.is_empty(), "{what} changed {diff:x?}");
            fixture.device.reset()?;
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
        self.fixture.device.config()?.enable()?;
        let mut queue = self.fixture.queue(2)?;
        run_jobs(&mut queue, &[mdma::job::nop()])
    }

    /// Returns the stream with another identity.
    pub(crate) fn with_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<Stream> {
        let mut stream = self.stream.clone();
        let mut identity = stream
            .identity()
            .map_err(crate::harness::result::Ended::failed)?;
        change(&mut identity);
        stream.records[0].payload = identity.encode().to_vec();
        stream.seal();
        Ok(stream)
    }
}
