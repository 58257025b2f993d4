// SPDX-License-Identifier: GPL-2.0

//! The framework's write of a chunk of guest memory, with pages that are unmapped between two attempts (P30, P35).

#[path = "../../../../rust/vfio/dma/chunk.rs"]
mod chunk;

use std::collections::BTreeSet;

const PAGE: usize = 4096;
const PAGES: usize = 16;
const IOVA: u64 = 0x7000_0000;

/// A model of type1's guest memory: a copy stops at the first missing page, and marks pages only if none is missing.
#[derive(Default)]
struct Memory {
    missing: BTreeSet<usize>,
    written: BTreeSet<usize>,
    marked: BTreeSet<usize>,
}

impl Memory {
    fn write(&mut self, at: usize, len: usize) -> Result<(), usize> {
        let base = IOVA as usize % PAGE;
        let pages = (base + at) / PAGE..=(base + at + len - 1) / PAGE;
        for page in pages.clone() {
            if self.missing.contains(&page) {
                return Err(page);
            }
            self.written.insert(page);
        }
        self.marked.extend(pages);
        Ok(())
    }
}

/// Writes all the memory. `between` changes the missing pages after the first attempt.
fn run(missing: &[usize], between: impl Fn(&mut BTreeSet<usize>)) -> (Memory, Result<(), usize>) {
    let mut memory = Memory {
        missing: missing.iter().copied().collect(),
        ..Memory::default()
    };
    let mut calls = 0;
    let result = chunk::write(IOVA, PAGES * PAGE, PAGE, |at, len| {
        if calls == 1 {
            between(&mut memory.missing);
        }
        calls += 1;
        memory.write(at, len)
    });
    (memory, result)
}

#[test]
fn a_copy_that_succeeds_is_one_call() {
    let (memory, result) = run(&[], |_| panic!("a second call was made"));
    assert_eq!(result, Ok(()));
    assert_eq!(memory.marked.len(), PAGES);
}

/// Earlier, the second attempt stopped at the first missing page, and pages after it that the first attempt had written
/// were not reported.
#[test]
fn what_was_written_is_marked_whatever_goes_meanwhile() {
    for hole in 0..PAGES {
        for gone in 0..PAGES {
            let (memory, result) = run(&[hole], |missing| {
                missing.insert(gone);
            });
            // An unmapped page cannot be reported.
            let mut due = memory.written.clone();
            due.remove(&gone);
            assert!(
                due.is_subset(&memory.marked),
                "hole {hole}, then {gone} unmapped"
            );
            assert_eq!(
                result,
                Err(hole.min(gone)),
                "hole {hole}, then {gone} unmapped"
            );
        }
    }
}

#[test]
fn what_stood_in_the_way_may_be_gone() {
    let (memory, result) = run(&[5], BTreeSet::clear);
    assert_eq!(result, Ok(()));
    assert_eq!(memory.marked.len(), PAGES);
}

#[test]
fn a_single_page_is_tried_once() {
    let mut calls = 0;
    let result = chunk::write(IOVA + 8, 100, PAGE, |_, _| {
        calls += 1;
        Err(1)
    });
    assert_eq!((result, calls), (Err(1), 1));
}

#[test]
fn pieces_lie_in_pages_up_to_the_last_byte_of_all() {
    let last = 0u64.wrapping_sub(2 * PAGE as u64);
    for (iova, len) in [
        (last, 2 * PAGE),
        (last + 1, 2 * PAGE - 1),
        (u64::MAX, 1),
        (100, 5000),
        (0, 0),
    ] {
        let mut next = 0;
        for (at, n) in chunk::pages(iova, len, PAGE) {
            assert_eq!(at, next);
            let first = iova + at as u64;
            assert_eq!(first / PAGE as u64, (first + (n as u64 - 1)) / PAGE as u64);
            next += n;
        }
        assert_eq!(next, len, "{iova:#x}");
    }
}
