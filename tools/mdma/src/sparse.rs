// SPDX-License-Identifier: GPL-2.0

//! Memory of any size that stores only pages with contents.

use std::collections::BTreeMap;

const PAGE: usize = 4096;

/// Bytes by address, zero where not written. Addresses wrap at 2^64.
#[derive(Clone, Debug, Default)]
pub struct Sparse {
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Sparse {
    /// Creates memory of zeroes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `each` with page number, offset in the page and range of the access.
    fn split(address: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let within = at as usize % PAGE;
            let n = (PAGE - within).min(len - done);
            each(at / PAGE as u64, within, done..done + n);
            done += n;
        }
    }

    /// Copies bytes out.
    pub fn read(&self, address: u64, out: &mut [u8]) {
        Self::split(address, out.len(), |page, within, range| {
            let n = range.len();
            match self.pages.get(&page) {
                Some(bytes) => out[range].copy_from_slice(&bytes[within..within + n]),
                None => out[range].fill(0),
            }
        });
    }

    /// Copies bytes in.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        Self::split(address, data.len(), |page, within, range| {
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE]));
            bytes[within..within + range.len()].copy_from_slice(&data[range]);
        });
    }

    /// Copies bytes out into a new vector.
    pub fn to_vec(&self, address: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(address, &mut out);
        out
    }

    /// Returns the pages that are not all zero, as address and contents, sorted.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8; PAGE])> {
        self.pages
            .iter()
            .filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
            .map(|(&page, bytes)| (page * PAGE as u64, bytes.as_ref()))
    }
}

impl PartialEq for Sparse {
    fn eq(&self, other: &Self) -> bool {
        self.pages().eq(other.pages())
    }
}

impl Eq for Sparse {}
