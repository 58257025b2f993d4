// SPDX-License-Identifier: GPL-2.0

//! Dirty map of device memory: one bit per page that still has to be sent.
//!
//! Any number of writers mark pages while one reader takes them. Two rules make this safe:
//!
//! - The reader clears a page's bit, *then* reads the page: [`DirtyMap::take_run`] comes before
//!   the copy, and before the copy comes write-protecting the pages, if guests may map them.
//! - A writer changes the page, *then* marks it. A fault handler that lets a guest write a page
//!   inserts the writable mapping, then marks; or it marks at a point after which the fault code
//!   checks that the mapping has not changed.
//!
//! Mark and clear are read-modify-writes of one word, so they have an order. If the mark comes
//! first, the clear acquires what the mark released, and the reader sees the bytes. If the mark
//! comes second, the bit stays set and the page is sent again. A writer must not skip the mark
//! because the bit is already set: neither case would apply.
//!
//! # Counters
//!
//! Each [`BLOCK`] of pages has a counter, so searching looks at each block instead of each page. All of
//! the map has another, so counting all looks at nothing else. A mark adds its pages to the counter before it sets their bits, then subtracts those
//! that were already marked. A clear subtracts its pages after it clears their bits. So a counter is
//! never less than the number of bits set, and equals it while no call is in flight. Each call in
//! flight makes it at most 64 pages too large.

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};

const BITS: u64 = u64::BITS as u64;

/// Pages that share a counter.
pub const BLOCK: u64 = 1 << 15;

/// Lowest bit of the number of runs in a counter. The bits below hold the number of pages.
const RUNS: u32 = 32;

/// A non-empty range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub first: u64,
    /// The number of pages.
    pub count: u64,
}

impl Run {
    /// Returns the page after the last one.
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Dirty pages and their runs in a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyCount {
    /// Dirty pages.
    pub pages: u64,
    /// Runs of adjacent dirty pages. A run counts once for each word of 64 pages it lies in.
    pub runs: u64,
}

impl DirtyCount {
    /// Decodes a counter of `max` pages. While calls are in flight the number of runs may be too small or too
    /// large.
    #[inline]
    fn of(counter: u64, max: u64) -> DirtyCount {
        let pages = (counter & ((1 << RUNS) - 1)).min(max);
        let runs = u64::try_from((counter >> RUNS) as i32).unwrap_or(0);
        DirtyCount {
            pages,
            runs: runs.min(pages),
        }
    }

    /// Returns what is left without `part`.
    #[inline]
    pub const fn without(self, part: DirtyCount) -> DirtyCount {
        DirtyCount {
            pages: self.pages.saturating_sub(part.pages),
            runs: self.runs.saturating_sub(part.runs),
        }
    }

    fn add(&mut self, other: DirtyCount) {
        // No overflow: neither sum exceeds the number of pages.
        self.pages = self.pages.wrapping_add(other.pages);
        self.runs = self.runs.wrapping_add(other.runs);
    }
}

/// Returns the pages and runs of a word, encoded as in a counter.
#[inline]
const fn tally(bits: u64) -> u64 {
    // Most words are all clean or all dirty, and counting bits is slow.
    match bits {
        0 => 0,
        u64::MAX => BITS | (1 << RUNS),
        _ => bits.count_ones() as u64 | (((bits & !(bits << 1)).count_ones() as u64) << RUNS),
    }
}

/// One bit per page, in memory that the caller passes in. The block counters follow the bits.
#[derive(Debug)]
pub struct DirtyMap<W> {
    words: W,
    pages: u64,
    /// The index of the counter of all pages.
    total: usize,
}

/// Returns the number of words that a map of `pages` pages needs.
pub const fn words_for(pages: u64) -> u64 {
    match pages {
        0 => 0,
        _ => total_word(pages).saturating_add(1),
    }
}

/// Returns the index of the counter of all pages.
#[inline]
const fn total_word(pages: u64) -> u64 {
    bit_words(pages).saturating_add(pages.div_ceil(BLOCK))
}

/// Returns the number of words that hold the bits of `pages` pages.
#[inline]
const fn bit_words(pages: u64) -> u64 {
    pages.div_ceil(BITS)
}

/// Returns the first page of the block after that of `page`.
#[inline]
const fn next_block(page: u64) -> u64 {
    (page / BLOCK).saturating_add(1).saturating_mul(BLOCK)
}

/// Returns `count` ones from bit `first` on, cut off at the end of the word.
#[inline]
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

/// Returns the number of ones at the low end of a word.
#[inline]
const fn ones(bits: u64) -> u64 {
    bits.trailing_ones() as u64
}

impl<W: Deref<Target = [AtomicU64]>> DirtyMap<W> {
    /// Creates a map of `pages` pages in `words` and marks no page. `None` if `words` is shorter than
    /// [`words_for`] says, or if there are more pages than a counter can count.
    pub fn new(words: W, pages: u64) -> Option<Self> {
        if pages > u64::from(u32::MAX) || (words.len() as u64) < words_for(pages) {
            return None;
        }
        for word in words.iter() {
            word.store(0, Ordering::Release);
        }
        Some(DirtyMap {
            words,
            pages,
            total: usize::try_from(total_word(pages)).ok()?,
        })
    }

    /// Returns the number of pages in the map.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the word with the bit of `page`.
    fn word(&self, page: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(page / BITS).ok()?)
    }

    /// Returns the counter of the block of `page`.
    fn counter(&self, page: u64) -> Option<&AtomicU64> {
        let index = bit_words(self.pages).saturating_add(page / BLOCK);
        self.words.get(usize::try_from(index).ok()?)
    }

    /// Returns the counter of all pages.
    #[inline]
    fn total(&self) -> Option<&AtomicU64> {
        self.words.get(self.total)
    }

    /// Returns the count of the block of `page`. SeqCst: a task that waits for a mark announces that
    /// before it loads this counter, and a writer looks for waiters after it updates the counter.
    fn counted(&self, page: u64) -> DirtyCount {
        self.counter(page).map_or(DirtyCount::default(), |counter| {
            DirtyCount::of(counter.load(Ordering::SeqCst), BLOCK)
        })
    }

    /// Calls `f` for each word with bits of `[from, to)`, passing its first page in the range, the
    /// word, and the mask of these bits.
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
        let (Some(counter), Some(total)) = (self.counter(page), self.total()) else {
            return;
        };
        total.fetch_add(count, Ordering::SeqCst);
        counter.fetch_add(count, Ordering::SeqCst);
        let old = word.fetch_or(mask, Ordering::AcqRel);
        let more = tally(old | mask)
            .wrapping_sub(tally(old))
            .wrapping_sub(count);
        if more != 0 {
            counter.fetch_add(more, Ordering::SeqCst);
            total.fetch_add(more, Ordering::SeqCst);
        }
    }

    /// Clears the bits of `mask` in the word of `page`.
    fn clear(&self, page: u64, word: &AtomicU64, mask: u64) {
        let old = word.fetch_and(!mask, Ordering::AcqRel);
        let less = tally(old).wrapping_sub(tally(old & !mask));
        if less == 0 {
            return;
        }
        for counter in [self.counter(page), self.total()].into_iter().flatten() {
            counter.fetch_sub(less, Ordering::SeqCst);
        }
    }

    /// Marks a page that was just written. Ignores pages outside the map. Callable in any context.
    #[inline]
    pub fn mark(&self, page: u64) {
        if page < self.pages {
            if let Some(word) = self.word(page) {
                self.set(page, word, 1 << (page % BITS), 1);
            }
        }
    }

    /// Marks `count` pages from `first` on that were just written. Ignores pages outside the map.
    pub fn mark_range(&self, first: u64, count: u64) {
        self.each(first, first.saturating_add(count), |page, word, mask| {
            self.set(page, word, mask, u64::from(mask.count_ones()));
        });
    }

    /// Marks all pages.
    pub fn mark_all(&self) {
        self.mark_range(0, self.pages);
    }

    /// Clears all marks. Call this only before tracking starts: it also forgets pages that were
    /// written and not sent.
    pub fn clear_all(&self) {
        self.each_block(0, self.pages, |from, to| {
            self.each(from, to, |page, word, mask| self.clear(page, word, mask));
        });
    }

    /// Calls `f` with the part of `[from, to)` in each block that may have marked pages.
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

    /// Returns whether a page is marked; `false` outside the map.
    pub fn test(&self, page: u64) -> bool {
        let mut set = false;
        self.each(page, page.saturating_add(1), |_, word, mask| {
            set = word.load(Ordering::Acquire) & mask != 0;
        });
        set
    }

    /// Returns whether no page is marked.
    pub fn is_clean(&self) -> bool {
        self.count() == 0
    }

    /// Returns the number of marked pages.
    pub fn count(&self) -> u64 {
        self.count_all().pages
    }

    /// Counts all marked pages, in constant time.
    #[inline]
    pub fn count_all(&self) -> DirtyCount {
        self.total().map_or(DirtyCount::default(), |counter| {
            DirtyCount::of(counter.load(Ordering::SeqCst), self.pages)
        })
    }

    /// Counts the marked pages in `[from, to)`. Looks at the counter of each block, and at each word
    /// of a block that is only partly in the range.
    pub fn count_range(&self, from: u64, to: u64) -> DirtyCount {
        let mut total = DirtyCount::default();
        self.each_block(from, to, |from, to| {
            let whole = from % BLOCK == 0 && to == next_block(from).min(self.pages);
            if whole {
                total.add(self.counted(from));
            } else {
                self.each(from, to, |_, word, mask| {
                    // Most words are clean.
                    match word.load(Ordering::Acquire) & mask {
                        0 => {}
                        bits => total.add(DirtyCount::of(tally(bits), BITS)),
                    }
                });
            }
        });
        total
    }

    /// Returns the next marked page at or after `from`.
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

    /// Clears the bits of adjacent marked pages in `[first, end)`, from `first` on. Returns their
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
    /// and returns the run; `None` if there is none. The caller must send these pages or mark them
    /// again.
    ///
    /// Two concurrent readers may both get a page, which is then sent twice; no page is lost.
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
