// SPDX-License-Identifier: GPL-2.0

//! The dirty-page calls of type1: accepted and refused arguments. A refused call changes nothing.
//!
//! These tests need a device in the container only because a container without a group has no IOMMU calls. They work
//! with any mediated device, which `--type` selects.

use std::sync::Arc;

use vfio_client::uapi::{
    VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, VFIO_DMA_UNMAP_FLAG_VADDR,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP as GET, VFIO_IOMMU_DIRTY_PAGES_FLAG_START as START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP as STOP,
};
use vfio_client::{Access, BitmapRequest, Mapping};

use crate::env::{Env, Guest};
use crate::fixture::PAGE;
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "type1":
    p30_tracking_is_advertised ["P30"],
    p30_start_and_stop_again_are_no_errors ["P30"],
    p30_nothing_is_dirty_at_first ["P30"],
    p33_flags ["P33"],
    p33_argsz ["P33"],
    p33_tracking_off ["P33"],
    p33_alignment_and_size ["P33"],
    p33_page_sizes ["P33"],
    p33_bitmaps_too_small_or_too_large ["P33"] needs [LargeProcess],
    p33_missing_bitmaps ["P33"],
    p33_ranges_that_cut_a_mapping ["P33"],
    p33_unmap_with_bitmap_refused ["P33", "P30"],
    p33_larger_ranges_and_holes_are_fine ["P33"],
    p34_refused_mappings ["P34"],
    unmap_returns_the_mapped_size [],
}

/// The IOVA and size of the mapping of these tests.
const IOVA: u64 = 0x10_0000_0000;
const SIZE: u64 = 100 * PAGE;

/// Returns a container with a device, one mapping, and tracking enabled.
fn tracking(env: &Env) -> Result<Guest> {
    let guest = env.open_subject()?;
    map(&guest, IOVA, SIZE)?;
    guest.container.dirty_start()?;
    Ok(guest)
}

fn map(guest: &Guest, iova: u64, size: u64) -> Result<Arc<Mapping>> {
    let memory = Arc::new(Mapping::anonymous(size as usize)?);
    guest.container.map(iova, &memory, Access::ReadWrite)?;
    Ok(memory)
}

/// Checks that tracking and the mapping are as [`tracking`] made them.
fn unharmed(guest: &Guest) -> Result {
    let bitmap = guest.container.dirty_bitmap(IOVA, SIZE)?;
    assert!(
        bitmap.is_clean(),
        "dirty after refused calls: {:x?}",
        bitmap.dirty().next()
    );
    assert_eq!(guest.container.mapped(), [(IOVA, SIZE)]);
    Ok(())
}

/// Returns a valid request for the mapping.
fn right() -> BitmapRequest {
    BitmapRequest::get(IOVA, SIZE, PAGE)
}

fn p30_tracking_is_advertised(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let info = guest.container.iommu_info()?;
    let Some(capability) = info.migration else {
        crate::fail!("no migration capability: {info:?}");
    };
    assert_eq!(capability.flags, 0);
    assert_eq!(
        capability.pgsize_bitmap, PAGE,
        "type1 does not track CPU pages"
    );
    // One bit per page, INT_MAX pages.
    assert_eq!(capability.max_dirty_bitmap_size, 1 << 28);
    assert_eq!(info.dirty_pgsize(), Some(PAGE));
    Ok(())
}

fn p30_start_and_stop_again_are_no_errors(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let c = &guest.container;
    c.dirty_stop()?;
    c.dirty_start()?;
    c.dirty_start()?;
    map(&guest, IOVA, SIZE)?;
    c.dirty_start()?;
    assert!(c.dirty_bitmap(IOVA, SIZE)?.is_clean());
    c.dirty_stop()?;
    c.dirty_stop()?;
    assert_errno!(c.dirty_bitmap(IOVA, SIZE), EINVAL, "tracking is off");
    c.dirty_start()?;
    unharmed(&guest)
}

fn p30_nothing_is_dirty_at_first(env: &Env) -> Result {
    let guest = tracking(env)?;
    // Writes by the CPU do not dirty pages.
    let memory = map(&guest, 2 * IOVA, SIZE)?;
    memory.fill(0, SIZE as usize, 0xff);
    for _ in 0..3 {
        assert!(guest.container.dirty_bitmap(IOVA, SIZE)?.is_clean());
        assert!(guest.container.dirty_bitmap(2 * IOVA, SIZE)?.is_clean());
    }
    let (unmapped, bitmap) = guest.container.unmap_dirty(2 * IOVA, SIZE)?;
    assert_eq!(unmapped, SIZE);
    assert!(bitmap.is_clean());
    unharmed(&guest)
}

fn p33_flags(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    // No flag, two, three, and unknown flags alone and with a valid one.
    let bad = [0, START | STOP, START | GET, STOP | GET, START | STOP | GET];
    let unknown = (3..32).flat_map(|bit| [1 << bit, (1 << bit) | START, (1 << bit) | STOP]);
    for flags in bad.into_iter().chain(unknown) {
        assert_errno!(c.dirty_flags(8, flags), EINVAL, "flags {flags:#x}");
        let request = BitmapRequest { flags, ..right() };
        assert_errno!(
            c.dirty_bitmap_raw(&request),
            EINVAL,
            "flags {flags:#x} and a range"
        );
    }
    for bit in 3..32 {
        let flags = GET | (1 << bit);
        let request = BitmapRequest { flags, ..right() };
        assert_errno!(
            c.dirty_bitmap_raw(&request),
            EINVAL,
            "flags {flags:#x} and a range"
        );
    }
    unharmed(&guest)
}

fn p33_argsz(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    for argsz in 0..8 {
        for flags in [START, STOP, GET] {
            assert_errno!(
                c.dirty_flags(argsz, flags),
                EINVAL,
                "argsz {argsz}, flags {flags}"
            );
        }
    }
    // A header of 8 bytes and a range of 40 bytes.
    for argsz in 0..48 {
        let request = BitmapRequest { argsz, ..right() };
        assert_errno!(c.dirty_bitmap_raw(&request), EINVAL, "argsz {argsz}");
    }
    for argsz in [48, 49, 4096, u32::MAX] {
        c.dirty_bitmap_raw(&BitmapRequest { argsz, ..right() })?;
    }
    unharmed(&guest)
}

fn p33_tracking_off(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    c.dirty_stop()?;
    assert_errno!(c.dirty_bitmap_raw(&right()), EINVAL);
    let unmap = BitmapRequest::unmap(IOVA, SIZE, PAGE);
    assert_errno!(c.unmap_dirty_raw(&unmap), EINVAL);
    c.dirty_start()?;
    unharmed(&guest)
}

fn p33_alignment_and_size(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    let get = |iova, size| {
        c.dirty_bitmap_raw(&BitmapRequest {
            iova,
            size,
            ..right()
        })
    };
    for off in [1, 8, 511, 2048, PAGE - 1] {
        assert_errno!(get(IOVA + off, SIZE), EINVAL, "iova off by {off}");
        assert_errno!(get(IOVA, SIZE - off), EINVAL, "size off by {off}");
        assert_errno!(get(IOVA + off, SIZE - off), EINVAL, "both off by {off}");
    }
    assert_errno!(get(IOVA, 0), EINVAL, "no size");
    assert_errno!(get(IOVA, 1), EINVAL, "less than a page");
    // A range past the end of the address space overflows. One up to the end does not.
    assert_errno!(
        get(0u64.wrapping_sub(PAGE), 2 * PAGE),
        EOVERFLOW,
        "past the end"
    );
    assert_errno!(get(PAGE, u64::MAX), EOVERFLOW, "past the end");
    assert_errno!(get(u64::MAX, 2), EOVERFLOW, "past the end");
    assert!(
        get(0u64.wrapping_sub(PAGE), PAGE)?.is_clean(),
        "the last page"
    );
    unharmed(&guest)
}

fn p33_page_sizes(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    // Do not test 0. It returns EINVAL too, but type1 first shifts by its 64 trailing zeros, which is undefined
    // (UBSAN: shift-out-of-bounds in vfio_iommu_type1_dirty_pages() and _unmap_dma(), seen on 7.2).
    let sizes = (0..64).map(|bit| 1 << bit).filter(|size| *size != PAGE);
    for pgsize in sizes.chain([PAGE | 1, 3 * PAGE, PAGE | (2 * PAGE), u64::MAX]) {
        let request = BitmapRequest {
            pgsize,
            // Large enough for each page size.
            bitmap_size: 1 << 20,
            ..right()
        };
        assert_errno!(c.dirty_bitmap_raw(&request), EINVAL, "pgsize {pgsize:#x}");
        let unmap = BitmapRequest {
            pgsize,
            bitmap_size: 1 << 20,
            ..BitmapRequest::unmap(IOVA, SIZE, PAGE)
        };
        assert_errno!(
            c.unmap_dirty_raw(&unmap),
            EINVAL,
            "unmap, pgsize {pgsize:#x}"
        );
    }
    unharmed(&guest)
}

fn p33_bitmaps_too_small_or_too_large(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    // 100 pages need two words.
    for bitmap_size in [0, 1, 7, 8, 12, 13, 15, (1 << 28) + 1, 1 << 29, 1 << 40] {
        let request = BitmapRequest {
            bitmap_size,
            ..right()
        };
        assert_errno!(
            c.dirty_bitmap_raw(&request),
            EINVAL,
            "{bitmap_size} bytes for 100 bits"
        );
        let unmap = BitmapRequest {
            bitmap_size,
            ..BitmapRequest::unmap(IOVA, SIZE, PAGE)
        };
        assert_errno!(
            c.unmap_dirty_raw(&unmap),
            EINVAL,
            "unmap, {bitmap_size} bytes"
        );
    }
    for bitmap_size in [16, 17, 24, 4096, 1 << 28] {
        let request = BitmapRequest {
            bitmap_size,
            ..right()
        };
        assert!(c.dirty_bitmap_raw(&request)?.is_clean());
    }
    unharmed(&guest)
}

fn p33_missing_bitmaps(env: &Env) -> Result {
    let guest = tracking(env)?;
    let request = BitmapRequest {
        bad_address: true,
        ..right()
    };
    // type1 refuses an invalid address before it changes anything.
    assert_errno!(guest.container.dirty_bitmap_raw(&request), EINVAL);
    let unmap = BitmapRequest {
        bad_address: true,
        ..BitmapRequest::unmap(IOVA, SIZE, PAGE)
    };
    assert_errno!(guest.container.unmap_dirty_raw(&unmap), EINVAL);
    unharmed(&guest)
}

fn p33_ranges_that_cut_a_mapping(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    let end = IOVA + SIZE;
    for (iova, size, what) in [
        (IOVA + PAGE, SIZE - PAGE, "without its first page"),
        (IOVA, SIZE - PAGE, "without its last page"),
        (IOVA + PAGE, PAGE, "one page in the middle"),
        (IOVA - PAGE, 2 * PAGE, "across its start"),
        (end - PAGE, 2 * PAGE, "across its end"),
        (IOVA + 50 * PAGE, SIZE, "from its middle past its end"),
    ] {
        let get = BitmapRequest::get(iova, size, PAGE);
        assert_errno!(c.dirty_bitmap_raw(&get), EINVAL, "{what}");
        let unmap = BitmapRequest::unmap(iova, size, PAGE);
        assert_errno!(c.unmap_dirty_raw(&unmap), EINVAL, "unmap: {what}");
        assert_errno!(c.unmap(iova, size), EINVAL, "unmap without bitmap: {what}");
    }
    unharmed(&guest)
}

fn p33_unmap_with_bitmap_refused(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    let right = BitmapRequest::unmap(IOVA, SIZE, PAGE);
    let bitmap = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    for flags in [
        bitmap | VFIO_DMA_UNMAP_FLAG_ALL,
        bitmap | VFIO_DMA_UNMAP_FLAG_VADDR,
        bitmap | (1 << 3),
        bitmap | (1 << 31),
    ] {
        let request = BitmapRequest { flags, ..right };
        assert_errno!(c.unmap_dirty_raw(&request), EINVAL, "flags {flags:#x}");
    }
    for argsz in 0..48 {
        let request = BitmapRequest { argsz, ..right };
        assert_errno!(c.unmap_dirty_raw(&request), EINVAL, "argsz {argsz}");
    }
    for (iova, size) in [
        (IOVA + 1, SIZE),
        (IOVA, SIZE + 1),
        (IOVA, SIZE - 2048),
        (IOVA, 0),
    ] {
        let request = BitmapRequest {
            iova,
            size,
            ..right
        };
        assert_errno!(
            c.unmap_dirty_raw(&request),
            EINVAL,
            "iova {iova:#x} size {size:#x}"
        );
    }
    let request = BitmapRequest {
        iova: 0u64.wrapping_sub(PAGE),
        ..right
    };
    assert_errno!(c.unmap_dirty_raw(&request), EOVERFLOW, "past the end");
    unharmed(&guest)?;
    let (unmapped, dirty) = c.unmap_dirty_raw(&right)?;
    assert_eq!(unmapped, SIZE);
    assert!(dirty.is_clean());
    // The mapping no longer exists, so a second unmap returns 0.
    let (unmapped, _) = c.unmap_dirty_raw(&right)?;
    assert_eq!(unmapped, 0);
    Ok(())
}

fn p33_larger_ranges_and_holes_are_fine(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    map(&guest, IOVA + SIZE, 7 * PAGE)?;
    map(&guest, IOVA + SIZE + 20 * PAGE, PAGE)?;
    for (iova, size) in [
        // No mapping.
        (0, PAGE),
        (0, IOVA),
        // One mapping and the hole before it, two adjacent mappings, all three.
        (IOVA - 3 * PAGE, SIZE + 3 * PAGE),
        (IOVA, SIZE + 7 * PAGE),
        (IOVA - 1000 * PAGE, SIZE + 5000 * PAGE),
    ] {
        let bitmap = c.dirty_bitmap(iova, size)?;
        assert!(bitmap.is_clean(), "iova {iova:#x} size {size:#x}");
        assert_eq!(bitmap.pages(), size / PAGE);
    }
    assert_eq!(c.unmap(IOVA - PAGE, 1 << 30)?, SIZE + 8 * PAGE);
    Ok(())
}

fn p34_refused_mappings(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    let memory = Arc::new(Mapping::anonymous(SIZE as usize)?);
    let size = SIZE as usize;
    for iova in [IOVA, IOVA + PAGE, IOVA - PAGE, IOVA + SIZE - PAGE] {
        let result = c.map(iova, &memory, Access::ReadWrite);
        assert_errno!(result, EEXIST, "{iova:#x} overlaps");
    }
    for (iova, offset, size) in [
        (1, 0, size),
        (2 * IOVA, 1, size - 4096),
        (2 * IOVA, 0, size - 1),
        (2 * IOVA, 0, 0),
    ] {
        let result = c.map_range(iova, &memory, offset, size, Access::ReadWrite);
        assert_errno!(result, EINVAL, "{iova:#x}, {size:#x} bytes at {offset:#x}");
    }
    let last = 0u64.wrapping_sub(PAGE);
    assert_errno!(c.map(last, &memory, Access::ReadWrite), EOVERFLOW);
    for (argsz, flags) in [(31, 3), (32, 0), (32, 8), (32, 3 | 4), (0, 3)] {
        let result = c.map_raw(argsz, flags, 2 * IOVA, PAGE, &memory, 0);
        assert_errno!(result, EINVAL, "argsz {argsz}, flags {flags}");
    }
    // The same memory at another IOVA, and the last page of the address space, can be mapped.
    c.map(2 * IOVA, &memory, Access::ReadWrite)?;
    c.map_range(last, &memory, 0, PAGE as usize, Access::Read)?;
    c.unmap(2 * IOVA, SIZE)?;
    c.unmap(last, PAGE)?;
    unharmed(&guest)
}

fn unmap_returns_the_mapped_size(env: &Env) -> Result {
    let guest = tracking(env)?;
    let c = &guest.container;
    assert_eq!(c.unmap(0, IOVA)?, 0);
    assert_errno!(c.unmap(IOVA, 0), EINVAL, "no size");
    assert_errno!(c.unmap(1, PAGE), EINVAL, "unaligned");
    assert_errno!(c.unmap(IOVA, PAGE + 1), EINVAL, "unaligned");
    unharmed(&guest)?;
    map(&guest, 5 * IOVA, PAGE)?;
    assert_eq!(c.unmap_all()?, SIZE + PAGE);
    assert_eq!(c.unmap_all()?, 0);
    assert_eq!(c.mapped(), []);
    Ok(())
}
