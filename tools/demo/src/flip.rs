// SPDX-License-Identifier: GPL-2.0

//! A flipped bit of the stream.

use vfio_migrate::Phase;

/// Flips one bit of the first buffer that is sent after the source has stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flip {
    /// Whether to flip it.
    wanted: bool,
    /// The flipped bit, and the size of its buffer in bytes.
    pub(crate) done: Option<(usize, usize)>,
    phase: Option<Phase>,
}

impl Flip {
    pub(crate) fn new(wanted: bool) -> Self {
        Flip {
            wanted,
            ..Flip::default()
        }
    }

    /// A phase begins.
    pub(crate) fn phase(&mut self, phase: Phase) {
        self.phase = Some(phase);
    }

    /// A buffer is about to be loaded.
    pub(crate) fn buffer(&mut self, buffer: &mut [u8]) {
        if self.wanted && self.phase == Some(Phase::StopAndCopy) && self.done.is_none() {
            let at = buffer.len() / 2;
            buffer[at] ^= 1 << 3;
            self.done = Some((at * 8 + 3, buffer.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_the_first_buffer_after_the_stop() {
        let mut flip = Flip::new(true);
        let mut bytes = [0; 4];
        flip.phase(Phase::PreCopy(1));
        flip.buffer(&mut bytes);
        assert_eq!((bytes, flip.done), ([0; 4], None));
        flip.phase(Phase::StopAndCopy);
        flip.buffer(&mut bytes);
        flip.buffer(&mut bytes);
        assert_eq!((bytes, flip.done), ([0, 0, 8, 0], Some((19, 4))));
        let mut none = Flip::new(false);
        none.phase(Phase::StopAndCopy);
        none.buffer(&mut bytes);
        assert_eq!(bytes, [0, 0, 8, 0]);
    }
}
