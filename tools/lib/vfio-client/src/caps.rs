// SPDX-License-Identifier: GPL-2.0

//! The capability chain that the info ioctls append to their structure.
//!
//! ```text
//! 0   ┌──────────────┐
//!     │ fixed part   │ cap_offset ─┐
//!     ├──────────────┤ ◄───────────┘
//!     │ id version   │ u16 u16
//!     │ next         │ u32, from the start of the structure; 0 ends the chain
//!     │ contents     │ by id and version
//!     ├──────────────┤ ◄─ next
//! ```
//!
//! The chain is not trusted: every offset is checked, and a loop ends the walk.

use vfio_bindings::bindings::vfio::vfio_info_cap_header;

const HEADER: usize = size_of::<vfio_info_cap_header>();

/// One capability. Its contents extend to the end of the buffer, because the chain holds no lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability<'a> {
    /// Its ID, whose meaning depends on the info ioctl.
    pub id: u16,
    /// The version of its contents.
    pub version: u16,
    /// The bytes after the header.
    pub body: &'a [u8],
}

impl Capability<'_> {
    /// Returns the u32 at `offset` of the contents.
    pub fn u32(&self, offset: usize) -> Option<u32> {
        read_u32(self.body, offset)
    }

    /// Returns the u64 at `offset` of the contents.
    pub fn u64(&self, offset: usize) -> Option<u64> {
        read_u64(self.body, offset)
    }

    /// Returns the table of pairs of u64 that both kernel interfaces use: a count and a reserved u32, then the pairs.
    /// The table is cut at the end of the buffer.
    pub fn pairs(&self) -> Option<Vec<(u64, u64)>> {
        let count = self.u32(0)? as usize;
        let table = self.body.get(8..)?;
        Some(
            table
                .chunks_exact(16)
                .take(count)
                .map(|pair| {
                    let (first, second) = pair.split_at(8);
                    (
                        u64::from_ne_bytes(first.try_into().unwrap()),
                        u64::from_ne_bytes(second.try_into().unwrap()),
                    )
                })
                .collect(),
        )
    }
}

/// Reads a u32 in native byte order.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().unwrap()))
}

/// Reads a u64 in native byte order.
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().unwrap()))
}

/// Walks the chain at `cap_offset` of `info`, the whole structure.
///
/// Returns `None` if an offset is outside the buffer or inside the fixed part, or if the chain loops.
pub fn parse(info: &[u8], fixed: usize, cap_offset: u32) -> Option<Vec<Capability<'_>>> {
    let mut caps = Vec::new();
    let mut next = cap_offset as usize;
    while next != 0 {
        // Each capability takes at least its header, so a longer chain visits one twice.
        if next < fixed || caps.len() > info.len() / HEADER {
            return None;
        }
        let header = info.get(next..next.checked_add(HEADER)?)?;
        caps.push(Capability {
            id: u16::from_ne_bytes([header[0], header[1]]),
            version: u16::from_ne_bytes([header[2], header[3]]),
            body: &info[next + HEADER..],
        });
        next = read_u32(header, 4)? as usize;
    }
    Some(caps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(id: u16, next: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(id.to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(next.to_ne_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn two_capabilities_in_a_chain() {
        let mut info = vec![0; 32];
        let mut areas = vec![0; 8];
        areas[0..4].copy_from_slice(&1u32.to_ne_bytes());
        areas.extend(4096u64.to_ne_bytes());
        areas.extend(65536u64.to_ne_bytes());
        info.extend(cap(1, 64, &areas));
        info.extend(cap(2, 0, &[3, 0, 0, 0, 1, 0, 0, 0]));
        let caps = parse(&info, 32, 32).unwrap();
        assert_eq!(caps.len(), 2);
        assert_eq!((caps[0].id, caps[0].version), (1, 1));
        assert_eq!(caps[0].pairs().unwrap(), [(4096, 65536)]);
        assert_eq!((caps[1].u32(0), caps[1].u32(4)), (Some(3), Some(1)));
        assert_eq!(caps[1].u32(8), None);
    }

    #[test]
    fn no_chain() {
        assert_eq!(parse(&[0; 32], 32, 0), Some(vec![]));
    }

    #[test]
    fn offsets_outside_and_loops_are_refused() {
        let mut info = vec![0; 32];
        assert_eq!(parse(&info, 32, 32), None);
        assert_eq!(parse(&info, 32, 8), None);
        assert_eq!(parse(&info, 32, u32::MAX), None);
        info.extend(cap(1, 32, &[]));
        assert_eq!(parse(&info, 32, 32), None);
        // A truncated header.
        assert_eq!(parse(&info[..36], 32, 32), None);
    }

    #[test]
    fn a_count_beyond_the_buffer_is_cut() {
        let mut body = vec![0; 8];
        body[0..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        body.extend([0; 24]);
        let info = cap(1, 0, &body);
        let c = Capability {
            id: 1,
            version: 1,
            body: &info[8..],
        };
        assert_eq!(c.pairs().unwrap().len(), 1);
    }
}
