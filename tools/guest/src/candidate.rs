// SPDX-License-Identifier: GPL-2.0

//! Devices that the program can work with, of any kind.

use std::io;

use crate::event::{Found, WrongResult};
use crate::options::{Kind, Options};
use crate::work::Work;
use crate::{serial, uio, uio_work};

/// A device that was found.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// An `mdma`.
    Mdma(uio::Found),
    /// An `mserial`.
    Serial(serial::Found),
}

impl Candidate {
    /// Finds the devices of a kind, in the order of their PCI addresses.
    pub fn find(kind: Kind) -> io::Result<Vec<Candidate>> {
        Ok(match kind {
            Kind::Mdma => uio::find()?.into_iter().map(Candidate::Mdma).collect(),
            Kind::Mserial => serial::find()?.into_iter().map(Candidate::Serial).collect(),
        })
    }

    /// Begins the work with the device of this index.
    pub fn begin(
        list: &[Candidate],
        index: usize,
        options: &Options,
    ) -> WrongResult<(Box<dyn Work>, Found)> {
        let next = &list[(index + 1) % list.len()];
        match &list[index] {
            Candidate::Mdma(found) => {
                let peer = match next {
                    Candidate::Mdma(peer) if options.peers && list.len() > 1 => Some(peer),
                    _ => None,
                };
                uio_work::begin(found, peer, options, index)
            }
            Candidate::Serial(found) => serial::begin(found, options, index),
        }
    }
}
