// SPDX-License-Identifier: GPL-2.0

//! Dirty map of device memory: one bit per page that has to be sent.
//!
//! Any number of writers mark while one reader takes. Two rules make that safe:
//!
//! - The reader clears a page's bit, *then* reads the page: [`DirtyMap::take_run`] comes before
//!   the copy, and before the copy comes write-protecting the pages, if guests may map them.
//! - A writer changes the page, *then* marks it. Who lets a guest write a page inserts the
//!   writable mapping, then marks; or marks where the fault code checks afterwards that the mapping
//!   is still the one it knew.
//!
//! Mark and clear are read-modify-writes of one word, so one comes after the other. If the mark
//! comes first, the clear acquires what the mark released and the reader sees the bytes. If it
//! comes second, the bit stays set and the page is sent again. A writer that skipped the mark
//! because it saw the bit set would be in neither case.

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = u64::BITS as u64;

/// A range of pages that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub first: u64,
    /// The number of pages.
    pub count: u64,
}

impl Run {
    /// The page after the last.
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// How much is dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Dirty pages.
    pub pages: u64,
    /// Runs of adjacent dirty pages.
    pub runs: u64,
}

/// One bit per page, over memory that is handed in.
#[derive(Debug)]
pub struct DirtyMap<W> {
    words: W,
    pages: u64,
}

/// The number of words a map of `pages` pages needs.
pub const fn words_for(pages: u64) -> u64 {
    pages.div_ceil(BITS)
}

/// `count` ones from bit `first` on, cut off at the end of the word.
const fn mask(first: u64, count: u64) -> u64 {
    let ones = if count >= BITS {
        !0
    } else {
        (1u64 << count).wrapping_sub(1)
    };
    if first >= BITS {
        0
    } else {
        ones << first
    }
}

/// The number of ones at the low end of a word.
const fn ones(bits: u64) -> u64 {
    bits.trailing_ones() as u64
}

impl<W: Deref<Target = [AtomicU64]>> DirtyMap<W> {
    /// A map of `pages` pages over `words`, with no page marked; `None` if there are too few words.
    pub fn new(words: W, pages: u64) -> Option<Self> {
        if (words.len() as u64) < words_for(pages) {
            return None;
        }
        let map = DirtyMap { words, pages };
        map.clear_all();
        Some(map)
    }

    /// The number of pages the map is about.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index).ok()?)
    }

    /// The words from that of `page` on.
    fn words_from(&self, page: u64) -> &[AtomicU64] {
        let first = usize::try_from(page / BITS).unwrap_or(usize::MAX);
        self.words.get(first..).unwrap_or_default()
    }

    /// Calls `f` for each word that has bits in `[from, to)`, with the mask of these bits.
    fn each(&self, from: u64, to: u64, mut f: impl FnMut(&AtomicU64, u64)) {
        let to = to.min(self.pages);
        let mut page = from;
        for word in self.words_from(from) {
            if page >= to {
                break;
            }
            let bit = page % BITS;
            let count = to.saturating_sub(page).min(BITS - bit);
            // Most words are whole, and there may be very many.
            f(word, if count == BITS { !0 } else { mask(bit, count) });
            page = page.saturating_add(count);
        }
    }

    /// Marks a page that has just been written. Pages that do not exist are ignored.
    pub fn mark(&self, page: u64) {
        self.mark_range(page, 1);
    }

    /// Marks `count` pages from `first` on, that have just been written.
    pub fn mark_range(&self, first: u64, count: u64) {
        self.each(first, first.saturating_add(count), |word, mask| {
            word.fetch_or(mask, Ordering::AcqRel);
        });
    }

    /// Marks all pages.
    pub fn mark_all(&self) {
        self.mark_range(0, self.pages);
    }

    /// Forgets all marks. Only before tracking begins: what was written and not sent is forgotten
    /// too.
    pub fn clear_all(&self) {
        for word in self.words.iter() {
            word.store(0, Ordering::Release);
        }
    }

    /// Whether a page is marked.
    pub fn test(&self, page: u64) -> bool {
        let mut set = false;
        self.each(page, page.saturating_add(1), |word, mask| {
            set = word.load(Ordering::Acquire) & mask != 0;
        });
        set
    }

    /// Whether no page is marked.
    pub fn is_clean(&self) -> bool {
        self.words
            .iter()
            .all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// The number of marked pages.
    pub fn count(&self) -> u64 {
        self.census(0, self.pages).pages
    }

    /// How much is marked in `[from, to)`.
    pub fn census(&self, from: u64, to: u64) -> Census {
        let mut census = Census::default();
        // The bit below the word at hand.
        let mut below = 0;
        self.each(from, to, |word, mask| {
            let bits = word.load(Ordering::Acquire) & mask;
            // All clean or all dirty is usual, and to count bits takes a while.
            if bits == 0 {
                below = 0;
                return;
            }
            if bits == !0 {
                census.pages = census.pages.wrapping_add(BITS);
                census.runs = census.runs.wrapping_add(below ^ 1);
                below = 1;
                return;
            }
            let starts = bits & !((bits << 1) | below);
            // No overflow: neither is more than the pages there are.
            census.pages = census.pages.wrapping_add(u64::from(bits.count_ones()));
            census.runs = census.runs.wrapping_add(u64::from(starts.count_ones()));
            below = bits >> (BITS - 1);
        });
        census
    }

    /// The next marked page at or after `from`.
    fn next(&self, from: u64) -> Option<u64> {
        let mut start = from.saturating_sub(from % BITS);
        let mut mask = mask(from % BITS, BITS);
        for word in self.words_from(from) {
            let bits = word.load(Ordering::Acquire) & mask;
            if bits != 0 {
                return Some(start.saturating_add(u64::from(bits.trailing_zeros())));
            }
            start = start.saturating_add(BITS);
            mask = !0;
        }
        None
    }

    /// Clears the bits of adjacent marked pages in `[first, end)`, from the first on. Gives their
    /// number.
    fn take(&self, first: u64, end: u64) -> u64 {
        let mut page = first;
        while page < end {
            let bit = page % BITS;
            let Some(word) = self.word(page / BITS) else {
                break;
            };
            let limit = end.saturating_sub(page).min(BITS - bit);
            let count = ones(word.load(Ordering::Acquire) >> bit).min(limit);
            word.fetch_and(!mask(bit, count), Ordering::AcqRel);
            page = page.saturating_add(count);
            if count < limit {
                break;
            }
        }
        page.saturating_sub(first)
    }

    /// Takes the next run of at most `max_pages` marked pages at or after `from`: clears their bits
    /// and says which they are. The caller must then send them, or mark them again.
    ///
    /// Two readers at once may both get a page, which is then sent twice; none is lost.
    pub fn take_run(&self, from: u64, max_pages: u64) -> Option<Run> {
        if max_pages == 0 {
            return None;
        }
        let mut from = from;
        loop {
            let first = self.next(from)?;
            let count = self.take(first, first.saturating_add(max_pages).min(self.pages));
            if count != 0 {
                return Some(Run { first, count });
            }
            // Another reader was faster.
            from = first;
        }
    }
}
