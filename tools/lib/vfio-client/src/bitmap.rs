// SPDX-License-Identifier: GPL-2.0

//! The dirty bitmap of a range of IOVAs.

/// One bit per page of `pgsize` bytes, from `iova` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyBitmap {
    iova: u64,
    pgsize: u64,
    pages: u64,
    words: Vec<u64>,
}

impl DirtyBitmap {
    /// Wraps the words that the kernel wrote for `size` bytes from `iova`. Missing words count as clean. Bits after the
    /// last page are visible in [`words`](Self::words) only.
    pub fn new(iova: u64, size: u64, pgsize: u64, words: Vec<u64>) -> Self {
        DirtyBitmap {
            iova,
            pgsize,
            pages: size / pgsize.max(1),
            words,
        }
    }

    /// Returns the IOVA of the first page.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Returns the bytes per bit.
    pub fn pgsize(&self) -> u64 {
        self.pgsize
    }

    /// Returns the number of pages in the range.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the bitmap as the kernel wrote it.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the dirty pages of a bitmap of the same range.
    ///
    /// # Panics
    ///
    /// If its range or page size differs.
    pub fn merge(&mut self, other: &DirtyBitmap) {
        assert_eq!(
            (self.iova, self.pgsize, self.pages),
            (other.iova, other.pgsize, other.pages),
            "bitmaps of different ranges"
        );
        let len = self.words.len().max(other.words.len());
        self.words.resize(len, 0);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    fn bit(&self, page: u64) -> bool {
        page < self.pages
            && self
                .words
                .get((page / 64) as usize)
                .is_some_and(|w| (w >> (page % 64)) & 1 != 0)
    }

    /// Returns whether the page that holds `iova` is dirty.
    pub fn is_dirty(&self, iova: u64) -> bool {
        iova.checked_sub(self.iova)
            .is_some_and(|offset| self.bit(offset / self.pgsize))
    }

    /// Returns the number of dirty pages.
    pub fn count(&self) -> u64 {
        self.runs().map(|(_, size)| size / self.pgsize).sum()
    }

    /// Returns whether no page is dirty.
    pub fn is_clean(&self) -> bool {
        self.runs().next().is_none()
    }

    /// Returns the IOVAs of the dirty pages, ascending.
    pub fn dirty(&self) -> impl Iterator<Item = u64> + '_ {
        // By count, because the last page may end at the end of the address space.
        self.runs().flat_map(move |(iova, size)| {
            (0..size / self.pgsize).map(move |n| iova + n * self.pgsize)
        })
    }

    /// Returns the dirty ranges as (iova, bytes), ascending and not adjacent.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.find(next, true)?;
            let end = self.find(first, false).unwrap_or(self.pages);
            next = end;
            Some((self.iova + first * self.pgsize, (end - first) * self.pgsize))
        })
    }

    /// Returns the first page from `from` on whose bit is `value`.
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let mut page = from;
        while page < self.pages {
            let word = self.words.get((page / 64) as usize).copied().unwrap_or(0);
            let word = if value { word } else { !word } >> (page % 64);
            if word != 0 {
                let found = page + u64::from(word.trailing_zeros());
                return (found < self.pages).then_some(found);
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pages: u64, dirty: &[u64]) -> DirtyBitmap {
        let mut words = vec![0; pages.div_ceil(64) as usize];
        for d in dirty {
            words[(d / 64) as usize] |= 1 << (d % 64);
        }
        DirtyBitmap::new(0x10000, pages * 4096, 4096, words)
    }

    #[test]
    fn runs_cross_words_and_stop_at_the_end() {
        let m = map(130, &[0, 62, 63, 64, 65, 128, 129]);
        let page = |p: u64| 0x10000 + p * 4096;
        assert_eq!(
            m.runs().collect::<Vec<_>>(),
            [(page(0), 4096), (page(62), 4 * 4096), (page(128), 2 * 4096)]
        );
        assert_eq!(m.count(), 7);
        assert!(m.is_dirty(page(63) + 4095));
        assert!(!m.is_dirty(page(61)));
        assert!(!m.is_dirty(0));
        assert_eq!(m.dirty().nth(1), Some(page(62)));
    }

    #[test]
    fn bits_after_the_last_page_do_not_count() {
        let m = DirtyBitmap::new(0, 3 * 4096, 4096, vec![!0]);
        assert_eq!(m.count(), 3);
        assert_eq!(m.words(), [!0]);
    }

    #[test]
    fn merged() {
        let mut m = map(130, &[0, 64]);
        m.merge(&map(130, &[64, 129]));
        assert_eq!(m, map(130, &[0, 64, 129]));
        let mut short = DirtyBitmap::new(0x10000, 130 * 4096, 4096, vec![]);
        short.merge(&m);
        assert_eq!(short, m);
    }

    #[test]
    fn clean() {
        assert!(map(200, &[]).is_clean());
        assert!(DirtyBitmap::new(0, 1 << 20, 4096, vec![]).is_clean());
    }
}
