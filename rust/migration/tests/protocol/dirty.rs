// SPDX-License-Identifier: GPL-2.0

//! The dirty map, compared with a set of pages, and used by concurrent threads.

use migration::dirty::{words_for, DirtyCount, DirtyMap, Run, BLOCK};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn map(pages: u64) -> DirtyMap<Vec<AtomicU64>> {
    let words = (0..words_for(pages)).map(|_| AtomicU64::new(0)).collect();
    DirtyMap::new(words, pages).unwrap()
}

/// Returns the first run at or after `from`, page by page.
fn first_run(set: &BTreeSet<u64>, from: u64, max: u64) -> Option<Run> {
    let first = *set.range(from..).next()?;
    let count = (first..first + max)
        .take_while(|page| set.contains(page))
        .count() as u64;
    Some(Run { first, count })
}

#[derive(Clone, Debug)]
enum Op {
    Mark(u64),
    MarkRange(u64, u64),
    MarkAll,
    ClearAll,
    Take(u64, u64),
    Count(u64, u64),
}

fn op(pages: u64) -> impl Strategy<Value = Op> {
    let page = 0..pages + 70;
    prop_oneof![
        4 => page.clone().prop_map(Op::Mark),
        3 => (page.clone(), 0u64..200).prop_map(|(a, b)| Op::MarkRange(a, b)),
        1 => Just(Op::MarkAll),
        1 => Just(Op::ClearAll),
        8 => (page.clone(), 1u64..150).prop_map(|(a, b)| Op::Take(a, b)),
        2 => (page.clone(), page).prop_map(|(a, b)| Op::Count(a, b)),
    ]
}

fn history() -> impl Strategy<Value = (u64, Vec<Op>)> {
    prop_oneof![Just(0u64), Just(1), Just(64), Just(65), 1u64..400]
        .prop_flat_map(|pages| (Just(pages), prop::collection::vec(op(pages), 0..60)))
}

proptest! {
    #[test]
    fn rule_the_map_is_a_set((pages, ops) in history()) {
        let map = map(pages);
        let mut set = BTreeSet::new();
        for op in ops {
            match op {
                Op::Mark(page) => {
                    map.mark(page);
                    set.extend((page..page + 1).filter(|&p| p < pages));
                }
                Op::MarkRange(first, count) => {
                    map.mark_range(first, count);
                    set.extend(first..(first + count).min(pages).max(first));
                }
                Op::MarkAll => {
                    map.mark_all();
                    set.extend(0..pages);
                }
                Op::ClearAll => {
                    map.clear_all();
                    set.clear();
                }
                Op::Take(from, max) => {
                    let run = map.take_run(from, max);
                    prop_assert_eq!(run, first_run(&set, from, max));
                    if let Some(run) = run {
                        set.retain(|page| !(run.first..run.end()).contains(page));
                    }
                }
                Op::Count(from, to) => {
                    let inside = |page: &&u64| (from..to.max(from)).contains(*page);
                    let within: BTreeSet<_> = set.iter().filter(inside).collect();
                    let runs = within.iter().filter(|&&&p| p % 64 == 0 || !within.contains(&(p - 1)));
                    let expected = DirtyCount {
                        pages: within.len() as u64,
                        runs: runs.count() as u64,
                    };
                    prop_assert_eq!(map.count_range(from, to), expected);
                }
            }
            prop_assert_eq!(map.count(), set.len() as u64);
            prop_assert_eq!(map.is_clean(), set.is_empty());
            for page in 0..pages + 70 {
                prop_assert_eq!(map.test(page), set.contains(&page));
            }
        }
    }
}

#[test]
fn rule_extreme_arguments_change_nothing() {
    let map = map(100);
    map.mark(u64::MAX);
    map.mark(100);
    map.mark_range(u64::MAX - 3, u64::MAX);
    assert!(map.is_clean());
    map.mark_range(90, u64::MAX);
    assert_eq!(map.count(), 10);
    assert_eq!(map.take_run(u64::MAX, u64::MAX), None);
    assert_eq!(map.take_run(0, 0), None);
    assert_eq!(map.count_range(50, 40), DirtyCount::default());
    assert_eq!(
        map.take_run(0, u64::MAX),
        Some(Run {
            first: 90,
            count: 10
        })
    );
    assert!(map.is_clean());
}

#[test]
fn rule_too_few_words_are_no_map() {
    assert!(DirtyMap::new(Vec::<AtomicU64>::new(), 1).is_none());
    // A device without memory needs none.
    let map = DirtyMap::new(Vec::<AtomicU64>::new(), 0).unwrap();
    assert!(map.is_clean());
    let words = |count: usize| (0..count).map(|_| AtomicU64::new(!0)).collect::<Vec<_>>();
    // One word for the bits of 64 pages, one for the counter of a block, one for the counter of all.
    assert!(DirtyMap::new(words(3), 65).is_none());
    assert!(DirtyMap::new(words(3), 64).is_some());
    // A new map clears the words, including the bits without a page.
    let map = DirtyMap::new(words(3), 3).unwrap();
    assert!(map.is_clean());
    assert_eq!(map.take_run(0, 64), None);
}

#[test]
fn more_pages_than_a_counter_counts_are_no_map() {
    // The words are not accessed.
    struct Words;
    impl std::ops::Deref for Words {
        type Target = [AtomicU64];
        fn deref(&self) -> &[AtomicU64] {
            panic!("the number of pages is checked first")
        }
    }
    assert!(DirtyMap::new(Words, 1 << 32).is_none());
}

/// The counters match the bits in a map of two blocks and a partial one.
#[test]
fn rule_blocks_are_counted() {
    const PAGES: u64 = 2 * BLOCK + 1000;
    let map = map(PAGES);
    let mut set = BTreeSet::new();
    let mut x = 1u64;
    for step in 0..400 {
        x = x * 48_271 % 0x7fff_ffff;
        let (first, count) = (x % PAGES, x / PAGES % 300);
        match step % 4 {
            0 => {
                map.mark(first);
                set.insert(first);
            }
            1 => {
                map.mark_range(first, count);
                set.extend(first..(first + count).min(PAGES));
            }
            2 => {
                let run = map.take_run(first, count + 1);
                assert_eq!(run, first_run(&set, first, count + 1));
                for page in run.into_iter().flat_map(|run| run.first..run.end()) {
                    set.remove(&page);
                }
            }
            // Mark pages across block boundaries.
            _ => {
                let first = (first / BLOCK + 1) * BLOCK - count;
                map.mark_range(first, 2 * count);
                set.extend(first..(first + 2 * count).min(PAGES));
            }
        }
        assert_eq!(map.count(), set.len() as u64);
        for split in [0, first, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, PAGES] {
            for (from, to) in [(0, split), (split, PAGES)] {
                let pages = || set.range(from..to);
                let begins = |&&p: &&u64| p == from || p % 64 == 0 || !set.contains(&(p - 1));
                let expected = DirtyCount {
                    pages: pages().count() as u64,
                    runs: pages().filter(begins).count() as u64,
                };
                assert_eq!(map.count_range(from, to), expected, "[{from}, {to})");
            }
        }
    }
    map.clear_all();
    assert!(map.is_clean());
    map.mark(BLOCK);
    assert_eq!(map.count_range(0, PAGES), DirtyCount { pages: 1, runs: 1 });
    assert_eq!(map.count_all(), map.count_range(0, PAGES));
}

/// Writers change and mark pages while a reader takes runs and copies them. At the end, the copy must equal the pages.
#[test]
fn rule_no_write_is_lost_between_clear_and_read() {
    const PAGES: usize = 200;
    const WRITES: u64 = 20_000;
    let map = map(PAGES as u64);
    let pages: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    let mut copy = vec![0; PAGES];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|seed| {
                let (map, pages) = (&map, &pages);
                scope.spawn(move || {
                    let mut x = seed + 1;
                    for _ in 0..WRITES {
                        x = x * 48_271 % 0x7fff_ffff;
                        let page = (x % PAGES as u64) as usize;
                        pages[page].fetch_add(1, Ordering::Relaxed);
                        map.mark(page as u64);
                        // The map counts the mark, unless the reader has taken it.
                        assert!(
                            !map.test(page as u64) || !map.is_clean() || !map.test(page as u64)
                        );
                    }
                })
            })
            .collect();
        let (map, pages, done, copy) = (&map, &pages, &done, &mut copy);
        let reader = scope.spawn(move || loop {
            let last = done.load(Ordering::SeqCst);
            let mut from = 0;
            while let Some(run) = map.take_run(from, 7) {
                for page in run.first..run.end() {
                    copy[page as usize] = pages[page as usize].load(Ordering::Relaxed);
                }
                from = run.end();
            }
            if last {
                break;
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    assert!(map.is_clean());
    assert_eq!(map.count_range(0, PAGES as u64), DirtyCount::default());
    assert_eq!(map.count_all(), DirtyCount::default());
    let pages: Vec<_> = pages.iter().map(|p| p.load(Ordering::Relaxed)).collect();
    assert_eq!(copy, pages);
    assert_eq!(pages.iter().sum::<u64>(), 3 * WRITES);
}

/// Two readers together take all pages.
#[test]
fn rule_two_readers_lose_nothing() {
    for _ in 0..200 {
        let map = map(1000);
        map.mark_all();
        let taken: Vec<AtomicU64> = (0..1000).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for max in [3, 70] {
                let (map, taken) = (&map, &taken);
                scope.spawn(move || {
                    while let Some(run) = map.take_run(0, max) {
                        assert!(run.count >= 1 && run.count <= max);
                        for page in run.first..run.end() {
                            taken[page as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(map.is_clean());
        for (page, count) in taken.iter().enumerate() {
            assert!(count.load(Ordering::Relaxed) >= 1, "{page}");
        }
    }
}
