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
//!
//! # Counters
//!
//! Each [`BLOCK`] of pages has a counter, so that counting and searching cost a look at each block
//! and not at each page. A mark adds its pages to the counter before it sets their bits, then takes
//! off those that were marked already. A clear takes its pages off after it clears their bits. So a
//! counter is never less than the number of bits set, and equals it while no call is in flight. Each
//! call in flight makes it at most 64 pages too large.

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = u64::BITS as u64;

/// Pages that share a counter.
pub const BLOCK: u64 = 1 << 15;

/// Where the number of runs begins in a counter. The number of pages is below.
const RUNS: u32 = 32;

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
    /// Runs of adjacent dirty pages. A run is counted once for each word of 64 pages it lies in.
    pub runs: u64,
}

impl Census {
    /// What a counter says. The number of runs may be off either way while calls are in flight.
    fn of(counter: u64) -> Census {
        let pages = (counter & ((1 << RUNS) - 1)).min(BLOCK);
        let runs = u64::try_from((counter >> RUNS) as i32).unwrap_or(0);
        Census {
            pages,
            runs: runs.min(pages),
        }
    }

    fn add(&mut self, other: Census) {
        // No overflow: neither is more than the pages there are.
        self.pages = self.pages.wrapping_add(other.pages);
        self.runs = self.runs.wrapping_add(other.runs);
    }
}

/// What the bits of a word are worth in a counter.
const fn tally(bits: u64) -> u64 {
    // All clean or all dirty is usual, and counting bits takes a while.
    match bits {
        0 => 0,
        u64::MAX => BITS | (1 << RUNS),
        _ => bits.count_ones() as u64 | (((bits & !(bits << 1)).count_ones() as u64) << RUNS),
    }
}

/// One bit per page, over memory that is handed in. The counters of the blocks follow the bits.
#[derive(Debug)]
pub struct DirtyMap<W> {
    words: W,
    pages: u64,
}

/// The number of words a map of `pages` pages needs.
pub const fn words_for(pages: u64) -> u64 {
    bit_words(pages).saturating_add(pages.div_ceil(BLOCK))
}

/// The number of words that hold the bits of `pages` pages.
const fn bit_words(pages: u64) -> u64 {
    pages.div_ceil(BITS)
}

/// The first page of the block after that of `page`.
const fn next_block(page: u64) -> u64 {
    (page / BLOCK).saturating_add(1).saturating_mul(BLOCK)
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
        for word in words.iter() {
            word.store(0, Ordering::Release);
        }
        Some(DirtyMap { words, pages })
    }

    /// The number of pages the map is about.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The word with the bit of `page`.
    fn word(&self, page: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(page / BITS).ok()?)
    }

    /// The counter of the block of `page`.
    fn counter(&self, page: u64) -> Option<&AtomicU64> {
        let index = bit_words(self.pages).saturating_add(page / BLOCK);
        self.words.get(usize::try_from(index).ok()?)
    }

    /// What the counter of the block of `page` says. SeqCst, as who waits for a mark says so before
    /// he looks at this, and who marks looks at that after.
    fn counted(&self, page: u64) -> Census {
        self.counter(page).map_or(Census::default(), |counter| {
            Census::of(counter.load(Ordering::SeqCst))
        })
    }

    /// Calls `f` for each word that has bits of `[from, to)`, with its first such page and the mask of
    /// these bits.
    fn each(&self, from: u64, to: u64, mut f: impl FnMut(u64, &AtomicU64, u64)) {
        let to = to.min(self.pages);
        let mut page = from;
        while page < to {
            let Some(word) = self.word(page) else {
                break;
            };
            let bit = page % BITS;
            let count = to.saturating_sub(page).min(BITS - bit);
            f(page, word, mask(bit, count));
            page = page.saturating_add(count);
        }
    }

    /// Sets the bits of `mask` in the word of `page`; `count` is their number.
    fn set(&self, page: u64, word: &AtomicU64, mask: u64, count: u64) {
        let Some(counter) = self.counter(page) else {
            return;
        };
        counter.fetch_add(count, Ordering::SeqCst);
        let old = word.fetch_or(mask, Ordering::AcqRel);
        let more = tally(old | mask)
            .wrapping_sub(tally(old))
            .wrapping_sub(count);
        if more != 0 {
            counter.fetch_add(more, Ordering::SeqCst);
        }
    }

    /// Clears the bits of `mask` in the word of `page`.
    fn clear(&self, page: u64, word: &AtomicU64, mask: u64) {
        let old = word.fetch_and(!mask, Ordering::AcqRel);
        let less = tally(old).wrapping_sub(tally(old & !mask));
        if let (true, Some(counter)) = (less != 0, self.counter(page)) {
            counter.fetch_sub(less, Ordering::SeqCst);
        }
    }

    /// Marks a page that has just been written. Pages that do not exist are ignored.
    pub fn mark(&self, page: u64) {
        if page < self.pages {
            if let Some(word) = self.word(page) {
                self.set(page, word, 1 << (page % BITS), 1);
            }
        }
    }

    /// Marks `count` pages from `first` on, that have just been written.
    pub fn mark_range(&self, first: u64, count: u64) {
        self.each(first, first.saturating_add(count), |page, word, mask| {
            self.set(page, word, mask, u64::from(mask.count_ones()));
        });
    }

    /// Marks all pages.
    pub fn mark_all(&self) {
        self.mark_range(0, self.pages);
    }

    /// Forgets all marks. Only before tracking begins: what was written and not sent is forgotten
    /// too.
    pub fn clear_all(&self) {
        self.each_block(0, self.pages, |from, to| {
            self.each(from, to, |page, word, mask| self.clear(page, word, mask));
        });
    }

    /// Calls `f` for the part of `[from, to)` in each block that may have marked pages.
    fn each_block(&self, from: u64, to: u64, mut f: impl FnMut(u64, u64)) {
        let to = to.min(self.pages);
        let mut page = from;
        while page < to {
            let end = next_block(page).min(to);
            if self.counted(page).pages != 0 {
                f(page, end);
            }
            page = end;
        }
    }

    /// Whether a page is marked.
    pub fn test(&self, page: u64) -> bool {
        let mut set = false;
        self.each(page, page.saturating_add(1), |_, word, mask| {
            set = word.load(Ordering::Acquire) & mask != 0;
        });
        set
    }

    /// Whether no page is marked.
    pub fn is_clean(&self) -> bool {
        self.count() == 0
    }

    /// The number of marked pages.
    pub fn count(&self) -> u64 {
        self.census(0, self.pages).pages
    }

    /// How much is marked in `[from, to)`. Costs a look at each block, and at each word of a block
    /// that is in the range in part.
    pub fn census(&self, from: u64, to: u64) -> Census {
        let mut census = Census::default();
        self.each_block(from, to, |from, to| {
            let whole = from % BLOCK == 0 && to == next_block(from).min(self.pages);
            if whole {
                census.add(self.counted(from));
            } else {
                self.each(from, to, |_, word, mask| {
                    census.add(Census::of(tally(word.load(Ordering::Acquire) & mask)));
                });
            }
        });
        census
    }

    /// The next marked page at or after `from`.
    fn next(&self, from: u64) -> Option<u64> {
        let mut page = from;
        while page < self.pages {
            if page % BLOCK == 0 && self.counted(page).pages == 0 {
                page = next_block(page);
                continue;
            }
            let bits = self.word(page)?.load(Ordering::Acquire) >> (page % BITS);
            if bits != 0 {
                return Some(page.saturating_add(u64::from(bits.trailing_zeros())));
            }
            page = page.saturating_add(BITS - page % BITS);
        }
        None
    }

    /// Clears the bits of adjacent marked pages in `[first, end)`, from the first on. Gives their
    /// number.
    fn take(&self, first: u64, end: u64) -> u64 {
        let mut page = first;
        while page < end {
            let bit = page % BITS;
            let Some(word) = self.word(page) else {
                break;
            };
            let limit = end.saturating_sub(page).min(BITS - bit);
            let count = ones(word.load(Ordering::Acquire) >> bit).min(limit);
            self.clear(page, word, mask(bit, count));
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
