// SPDX-License-Identifier: GPL-2.0

//! A bench to try streams on.
//!
//! Everything that is refused goes the way of [`Bench::refused`]: the intact stream is loaded by the same calls first,
//! so that what fails afterwards fails for the change that was made.

use mdma::regs::Reg;
use migration::stream::Identity;
use vfio_client::v1::State;
use vfio_client::Error;

use crate::env::Lab;
use crate::fixture::memory::random_bytes;
use crate::fixture::{device, run_jobs, Scene, PAGE};
use crate::harness::result::Outcome;
use records::Stream;

/// A saved device, and one to try streams on.
pub(crate) struct Bench {
    /// The device that streams are tried on.
    pub(crate) scene: Scene,
    /// What was saved.
    pub(crate) stream: Stream,
}

/// Pages of device memory that the stream sends: two runs.
const PAGES: [u64; 3] = [3, 4, 9];

impl Bench {
    pub(crate) fn new(lab: &Lab) -> Outcome<Self> {
        let scene = Scene::new(lab)?;
        let mut rng = fastrand::Rng::with_seed(49);
        for page in PAGES {
            scene.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
        }
        scene.mdma.set(Reg::Scratch, 0x4950_5152)?;
        let stream = scene.save_stream()?;
        scene.device.reset()?;
        let bench = Bench { scene, stream };
        // The way itself: the stream as it was saved, and the same bytes taken apart and sealed.
        bench.accepted(&bench.stream, "as it was saved")?;
        let mut sealed = bench.stream.clone();
        sealed.seal();
        bench.accepted(&sealed, "sealed again")?;
        Ok(bench)
    }

    /// Loads a stream that is right, compares, and resets.
    pub(crate) fn accepted(&self, stream: &Stream, what: &str) -> Outcome {
        let scene = &self.scene;
        if let Err(e) = scene.load(&stream.bytes()) {
            crate::fail!("{what}: {e}");
        }
        assert_eq!(scene.mdma.get(Reg::Scratch)?, 0x4950_5152, "{what}");
        let len = 16 * PAGE as usize;
        let found = scene.read_memory(0, len)?;
        crate::fixture::memory::same(&found, &self.stream.memory(len), device(0), what);
        Ok(scene.device.reset()?)
    }

    /// Hands bytes over and asks for the end of the load; returns the refusal, if there was one.
    pub(crate) fn attempt(&self, bytes: &[u8], piece: usize) -> Outcome<Option<Error>> {
        let scene = &self.scene;
        scene.go(&[State::RESUMING])?;
        let mut first = None;
        for piece in bytes.chunks(piece) {
            first = scene.migration.load_buffer(piece).err();
            if first.is_some() {
                break;
            }
        }
        let end = scene.migration.write_state(State::RUNNING);
        Ok(match (first, end) {
            (Some(first), Err(end)) => {
                assert_eq!(end.errno(), first.errno(), "the end says something else");
                Some(first)
            }
            (Some(first), Ok(())) => panic!("{first}, and the device runs nevertheless"),
            (None, Err(end)) => Some(end),
            (None, Ok(())) => None,
        })
    }

    /// A stream must be refused with an errno; the device is in the error state then, and a reset makes it usable.
    pub(crate) fn refused(&self, bytes: &[u8], errno: i32, what: &str) -> Outcome {
        let scene = &self.scene;
        let before = scene.registers()?;
        for piece in [scene.section(), 61] {
            let refusal = self.attempt(bytes, piece)?;
            let found = refusal.as_ref().map(|e| e.errno());
            assert_eq!(found, Some(Some(errno)), "{what}: {refusal:?}");
            assert_eq!(scene.state()?, State::ERROR, "{what}");
            let diff = scene.registers()?.diff(&before);
            assert!(diff.is_empty(), "{what} changed {diff:x?}");
            scene.device.reset()?;
            assert_eq!(scene.state()?, State::RUNNING);
        }
        Ok(())
    }

    /// Changes the stream, seals it so that all the rest is right, and has it refused.
    pub(crate) fn spoilt(
        &self,
        what: &str,
        errno: i32,
        change: impl FnOnce(&mut Stream),
    ) -> Outcome {
        let mut stream = self.stream.clone();
        change(&mut stream);
        stream.seal();
        self.refused(&stream.bytes(), errno, what)
    }

    /// At the end of a test: the device works as ever.
    pub(crate) fn usable(&self) -> Outcome {
        self.accepted(&self.stream, "after everything")?;
        self.scene.device.config()?.enable()?;
        let mut queue = self.scene.queue(2)?;
        run_jobs(&mut queue, &[mdma::job::nop()])
    }

    /// The stream with another identity.
    pub(crate) fn with_identity(&self, change: impl FnOnce(&mut Identity)) -> Outcome<Stream> {
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
