// SPDX-License-Identifier: GPL-2.0

//! Questions for dirty pages of guest memory, and sections that arrive by `write()`.

use std::collections::BTreeSet;

use migration::dirty_query::{
    bitmap_bytes, check_page_size, max_pages, Answer, Bitmap, Query, QueryError, ALL, NONE,
};
use migration::incoming::Incoming;
use migration::v7::{copied_pfns, has_bitmap};

const PAGE: u64 = 4096;

fn query(page_size: u64, total: u64) -> Query {
    Query {
        page_size,
        total,
        ..Query::default()
    }
}

/// Takes all parts of a question, of at most `max` pages, and marks `ranges` in each. Returns the dirty
/// pages, by number.
fn all_parts(mut query: Query, start: u64, max: u64, ranges: &[(u64, u64)]) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    while let Some(part) = query.part(Some(start), max).unwrap() {
        assert!(part.pages <= max && part.pages > 0);
        assert_eq!(part.first, start + query.done * query.page_size);
        let mut bitmap = Bitmap::new(part, vec![0; bitmap_bytes(part.pages) as usize]);
        for (first, last) in ranges {
            bitmap.mark(*first, *last);
        }
        let (bytes, dirty) = bitmap.finish();
        let found: Vec<u64> = (0..bytes.len() as u64 * 8)
            .filter(|bit| (bytes[(bit / 8) as usize] >> (bit % 8)) & 1 != 0)
            .collect();
        assert_eq!(found.len() as u64, dirty);
        assert!(
            found.iter().all(|bit| *bit < part.pages),
            "a bit behind the part"
        );
        pages.extend(found.into_iter().map(|bit| bit + query.done));
        query.done += part.pages;
    }
    assert_eq!(query.done, query.total);
    pages
}

#[test]
fn every_byte_marks_its_page_and_no_other() {
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..2000 {
        let page_size = PAGE << rng.u32(0..4);
        let total = rng.u64(1..400);
        let start = rng.u64(0..1000) * page_size;
        let end = start + total * page_size;
        let ranges: Vec<(u64, u64)> = (0..rng.usize(0..6))
            .map(|_| {
                let first = rng.u64(start.saturating_sub(5 * PAGE)..end + 5 * PAGE);
                (first, first + rng.u64(0..20 * PAGE))
            })
            .collect();
        let expected: BTreeSet<u64> = (0..total)
            .filter(|page| {
                let (low, high) = (start + page * page_size, start + (page + 1) * page_size - 1);
                ranges
                    .iter()
                    .any(|(first, last)| *first <= high && low <= *last)
            })
            .collect();
        let max = rng.u64(1..500);
        let found = all_parts(query(page_size, total), start, max, &ranges);
        assert_eq!(found, expected, "round {round}");
    }
}

#[test]
fn a_range_may_end_at_the_last_address() {
    let start = 0u64.wrapping_sub(3 * PAGE);
    let part = query(PAGE, 3).part(Some(start), 64).unwrap().unwrap();
    assert_eq!((part.first, part.last, part.pages), (start, u64::MAX, 3));
    let mut bitmap = Bitmap::new(part, vec![0; 16]);
    bitmap.mark(u64::MAX, u64::MAX);
    let (bytes, dirty) = bitmap.finish();
    assert_eq!((bytes[0], dirty), (0b100, 1));
    assert_eq!(query(PAGE, 4).part(Some(start), 64), Err(QueryError::Wraps));
    // All of the address space, in pages of the largest size.
    let part = query(1 << 63, 2).part(Some(0), 64).unwrap().unwrap();
    assert_eq!((part.last, part.pages), (u64::MAX, 2));
    for total in [3, u64::MAX] {
        assert_eq!(
            query(1 << 63, total).part(Some(0), 64),
            Err(QueryError::Wraps)
        );
    }
}

#[test]
fn what_is_no_question_is_refused() {
    for size in [0, 1, 2048, 4095, 4097, 3 * PAGE, u64::MAX] {
        assert_eq!(check_page_size(size), Err(QueryError::PageSize(size)));
        let part = query(size, 1).part(Some(0), 64);
        assert_eq!(part, Err(QueryError::PageSize(size)));
        assert!(!part.unwrap_err().to_string().is_empty());
    }
    for shift in 12..64 {
        assert_eq!(check_page_size(1 << shift), Ok(()));
    }
    let part = query(PAGE, 1).part(Some(PAGE + 1), 64);
    assert_eq!(part, Err(QueryError::Unaligned(PAGE + 1)));
    assert_eq!(query(PAGE, 1).part(None, 64), Err(QueryError::Wraps));
    assert_eq!(query(PAGE, 0).part(Some(0), 64), Ok(None));
    let far = Query {
        start: u64::MAX,
        ..query(2 * PAGE, 1)
    };
    assert_eq!(far.start_of_pfn(), None);
}

#[test]
fn a_bitmap_and_a_word_fit_into_their_place() {
    for bytes in (8..10_000).step_by(8) {
        let pages = max_pages(bytes);
        assert!(pages == 0 || bitmap_bytes(pages) <= bytes);
        assert!(bitmap_bytes(pages + 1) > bytes);
    }
}

#[test]
fn p36_none_and_all_speak_for_the_whole_range() {
    let answered = |total, pages, dirty| {
        let read = false;
        Query {
            answer: Some(Answer { pages, dirty, read }),
            ..query(PAGE, total)
        }
    };
    for (total, pages, dirty, copied) in [
        (10, 10, 0, NONE),
        (10, 10, 10, ALL),
        (10, 10, 1, 10),
        (10, 4, 0, 4),
        (10, 4, 4, 4),
        (0, 0, 0, NONE),
    ] {
        let query = answered(total, pages, dirty);
        assert_eq!(copied_pfns(&query), copied, "{total} {pages} {dirty}");
        assert_eq!(has_bitmap(&query), copied != NONE && copied != ALL);
    }
    let mut query = answered(10, 10, 1);
    query.done = 5;
    query.ask(|query| query.start = 3);
    assert_eq!((query.start, query.done, query.answer), (3, 0, None));
    assert!(!has_bitmap(&query));
}

#[test]
fn a_section_is_complete_in_either_order() {
    let mut rng = fastrand::Rng::with_seed(8);
    for _ in 0..1000 {
        let size = rng.u64(1..100);
        let mut incoming = Incoming::default();
        let announce_at = rng.u64(0..=size);
        let (mut at, mut announced, mut complete) = (0, false, None);
        while complete.is_none() {
            if !announced && at >= announce_at {
                announced = true;
                complete = incoming.announce(size);
            } else {
                assert!(at < size, "not complete with all bytes");
                let len = rng.u64(1..=size - at);
                complete = incoming.arrive(at, len);
                at += len;
            }
            assert_eq!(complete.is_some(), announced && at == size);
        }
        assert_eq!(complete, Some(size));
        assert_eq!(incoming, Incoming::default());
    }
}

#[test]
fn bytes_behind_a_gap_do_not_count() {
    let mut incoming = Incoming::default();
    assert_eq!(incoming.announce(10), None);
    assert_eq!(incoming.arrive(5, 5), None);
    assert_eq!((incoming.announced(), incoming.arrived()), (Some(10), 0));
    // Written twice, and overlapping.
    assert_eq!(incoming.arrive(0, 4), None);
    assert_eq!(incoming.arrive(0, 4), None);
    assert_eq!(incoming.arrive(2, 5), None);
    assert_eq!(incoming.arrived(), 7);
    assert_eq!(incoming.arrive(7, 3), Some(10));
}
