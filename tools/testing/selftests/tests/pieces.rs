// SPDX-License-Identifier: GPL-2.0

//! How the framework divides registered memory into the pieces that it pins at once, up to 256 GiB.

#[path = "../../../../rust/vfio/dma/pieces.rs"]
mod pieces;

use pieces::Pieces;

const SIZE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Checks each piece, and returns their number.
fn check(iova: u64, len: u64) -> usize {
    let pieces = Pieces::<SIZE>::new(iova, len).expect("a range that does not wrap");
    assert_eq!((pieces.iova(), pieces.len()), (iova, len));
    let mut count = 0;
    let mut done = 0;
    while done < len {
        let (start, end) = (pieces.start(count), pieces.start(count + 1));
        assert_eq!(start, done, "a gap before piece {count}");
        assert!(start < end && end <= len && end - start <= SIZE);
        // All of it is between two multiples of the size, so that it has at most 512 pages.
        assert_eq!((iova + start) / SIZE, (iova + (end - 1)) / SIZE);
        for offset in [start, end - 1] {
            assert_eq!(pieces.index(offset), count, "offset {offset:#x}");
        }
        done = end;
        count += 1;
    }
    assert_eq!(done, len);
    assert_eq!(pieces.count(), count);
    assert_eq!(pieces.start(count + 1), len);
    assert_eq!(pieces.start(usize::MAX), len);
    count
}

#[test]
fn sixty_four_gib() {
    for at in [0, 0x1_0000_0000, 1 << 47] {
        assert_eq!(check(at, 64 * GIB), 32_768);
        // With a start and an end anywhere there is one more.
        assert_eq!(check(at + 1, 64 * GIB), 32_769);
        assert_eq!(check(at + SIZE - 1, 64 * GIB), 32_769);
        assert_eq!(check(at + 4096, 64 * GIB - 4096), 32_768);
    }
}

#[test]
fn the_most_that_a_device_can_pin() {
    assert_eq!(check(0, 256 * GIB), 1 << 17);
    assert_eq!(check(4095, 256 * GIB), (1 << 17) + 1);
}

#[test]
fn the_end_of_the_address_space() {
    for len in [1, 4096, SIZE - 1, SIZE, SIZE + 1, 64 * GIB] {
        check(0u64.wrapping_sub(len), len);
        assert!(Pieces::<SIZE>::new(0u64.wrapping_sub(len), len + 1).is_none());
    }
    assert!(Pieces::<SIZE>::new(u64::MAX, 2).is_none());
    assert!(Pieces::<SIZE>::new(1, u64::MAX).is_some());
    assert!(Pieces::<SIZE>::new(2, u64::MAX).is_none());
    assert!(Pieces::<SIZE>::new(0, 0).is_none());
}

#[test]
fn small_memory_at_each_offset() {
    for before in [0, 1, 4095, SIZE - 4097, SIZE - 2, SIZE - 1] {
        for len in [1, 2, 4096, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE] {
            check(7 * SIZE + before, len);
        }
    }
}
