// SPDX-License-Identifier: GPL-2.0

//! The type1 IOMMU of a container: information, unmapping, dirty pages (P30 to P35).

use std::os::fd::AsFd;

use vfio_bindings::bindings::vfio::{
    vfio_iommu_type1_info, VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
};

use crate::bitmap::DirtyBitmap;
use crate::caps::{self, read_u32, read_u64};
use crate::container::Container;
use crate::error::{Context, Error, Result};
use crate::info::info_ioctl;
use crate::mapping::Mapping;
use crate::sys::{self, BitmapArg};

const GET_INFO: u32 = sys::nr(12);
const UNMAP_DMA: u32 = sys::nr(14);
const DIRTY_PAGES: u32 = sys::nr(17);

/// `argsz` and `flags`, the start of every argument.
const HEAD: u32 = 8;
/// `struct vfio_iommu_type1_dma_unmap` without `data`.
const UNMAP: u32 = 24;
/// `struct vfio_bitmap`.
const BITMAP: u32 = 24;
/// `struct vfio_iommu_type1_dirty_bitmap_get`.
const RANGE: u32 = 40;

/// Result of `VFIO_IOMMU_GET_INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IommuInfo {
    /// `flags`.
    pub flags: u32,
    /// Bitmap of the supported page sizes.
    pub iova_pgsizes: u64,
    /// The usable IOVA ranges, each as first and last.
    pub iova_ranges: Vec<(u64, u64)>,
    /// Dirty page tracking, if supported.
    pub migration: Option<MigrationCapability>,
    /// The number of mappings still available.
    pub dma_avail: Option<u32>,
}

/// `VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationCapability {
    /// `flags`.
    pub flags: u32,
    /// Bitmap of the page sizes of dirty tracking.
    pub pgsize_bitmap: u64,
    /// Limit on the size of a bitmap, in bytes.
    pub max_dirty_bitmap_size: u64,
}

impl IommuInfo {
    /// Parses the structure with its capability chain.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const FIXED: usize = size_of::<vfio_iommu_type1_info>();
        let mut info = IommuInfo {
            flags: read_u32(bytes, 4)?,
            iova_pgsizes: read_u64(bytes, 8)?,
            ..IommuInfo::default()
        };
        if info.flags & VFIO_IOMMU_INFO_CAPS == 0 {
            return Some(info);
        }
        for cap in caps::parse(bytes, FIXED, read_u32(bytes, 16)?)? {
            match u32::from(cap.id) {
                VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => info.iova_ranges = cap.pairs()?,
                VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION => {
                    info.migration = Some(MigrationCapability {
                        flags: cap.u32(0)?,
                        pgsize_bitmap: cap.u64(8)?,
                        max_dirty_bitmap_size: cap.u64(16)?,
                    });
                }
                VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => info.dma_avail = Some(cap.u32(0)?),
                _ => {}
            }
        }
        Some(info)
    }

    /// Returns the page size of dirty tracking, which is the smallest.
    pub fn dirty_pgsize(&self) -> Option<u64> {
        let sizes = self.migration?.pgsize_bitmap;
        (sizes != 0).then(|| 1 << sizes.trailing_zeros())
    }
}

/// A request for a bitmap with every value as given, for tests of refusals (P33).
///
/// [`Container::dirty_bitmap`] and [`Container::unmap_dirty`] fill it in correctly.
#[derive(Clone, Copy, Debug)]
pub struct BitmapRequest {
    /// `argsz`. The right value is 48 for both calls: the fixed part and the structures after it, without the bitmap.
    pub argsz: u32,
    /// `flags`.
    pub flags: u32,
    /// First IOVA.
    pub iova: u64,
    /// Bytes of IOVAs.
    pub size: u64,
    /// Bytes per bit.
    pub pgsize: u64,
    /// Bytes of bitmap.
    pub bitmap_size: u64,
    /// Pass an address that is not mapped.
    pub bad_address: bool,
}

impl BitmapRequest {
    /// Makes the right request for `VFIO_IOMMU_DIRTY_PAGES` with `GET_BITMAP`.
    pub fn get(iova: u64, size: u64, pgsize: u64) -> Self {
        BitmapRequest {
            argsz: HEAD + RANGE,
            flags: VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
            iova,
            size,
            pgsize,
            bitmap_size: (size / pgsize.max(1)).div_ceil(64) * 8,
            bad_address: false,
        }
    }

    /// Makes the right request for `VFIO_IOMMU_UNMAP_DMA` with `GET_DIRTY_BITMAP`.
    pub fn unmap(iova: u64, size: u64, pgsize: u64) -> Self {
        BitmapRequest {
            argsz: UNMAP + BITMAP,
            flags: VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
            ..Self::get(iova, size, pgsize)
        }
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(self.argsz.to_ne_bytes());
        head.extend(self.flags.to_ne_bytes());
        head.extend(self.iova.to_ne_bytes());
        head.extend(self.size.to_ne_bytes());
        head
    }

    pub(crate) fn bitmap(&self) -> BitmapArg {
        BitmapArg {
            pgsize: self.pgsize,
            size: self.bitmap_size,
            nowhere: self.bad_address,
        }
    }
}

impl Container {
    /// `VFIO_IOMMU_GET_INFO` with its capabilities.
    pub fn iommu_info(&self) -> Result<IommuInfo> {
        let what = || "VFIO_IOMMU_GET_INFO".to_string();
        let bytes = info_ioctl(self.as_fd(), GET_INFO, 0, 24, false).field(what)?;
        IommuInfo::parse(&bytes)
            .ok_or_else(|| Error::other("VFIO_IOMMU_GET_INFO", "malformed capability chain"))
    }

    /// `VFIO_IOMMU_UNMAP_DMA`: returns the bytes unmapped, and releases their memory.
    pub fn unmap(&self, iova: u64, size: u64) -> Result<u64> {
        self.release_after(iova, size, || {
            sys::unmap_dma(self.as_fd(), 0, iova, size)
                .map(|unmapped| (unmapped, ()))
                .field(|| format!("VFIO_IOMMU_UNMAP_DMA iova {iova:#x} size {size:#x}"))
        })
        .map(|(unmapped, ())| unmapped)
    }

    /// `VFIO_IOMMU_UNMAP_DMA` of everything.
    pub fn unmap_all(&self) -> Result<u64> {
        self.release_after(0, u64::MAX, || {
            sys::unmap_dma(self.as_fd(), VFIO_DMA_UNMAP_FLAG_ALL, 0, 0)
                .map(|unmapped| (unmapped, ()))
                .field(|| "VFIO_IOMMU_UNMAP_DMA all".into())
        })
        .map(|(unmapped, ())| unmapped)
    }

    /// Unmaps, and returns the dirty pages.
    pub fn unmap_dirty(&self, iova: u64, size: u64) -> Result<(u64, DirtyBitmap)> {
        self.unmap_dirty_raw(&BitmapRequest::unmap(iova, size, self.dirty_pgsize()?))
    }

    /// `VFIO_IOMMU_UNMAP_DMA` with a bitmap, with every value as given.
    pub fn unmap_dirty_raw(&self, request: &BitmapRequest) -> Result<(u64, DirtyBitmap)> {
        let (iova, size) = (request.iova, request.size);
        let call = || {
            let mut head = request.head();
            let words = sys::with_bitmap(self.as_fd(), UNMAP_DMA, &mut head, request.bitmap())
                .field(|| {
                    format!("VFIO_IOMMU_UNMAP_DMA with bitmap, iova {iova:#x} size {size:#x}")
                })?;
            Ok((
                read_u64(&head, 16).unwrap(),
                DirtyBitmap::new(iova, size, request.pgsize, words),
            ))
        };
        // With other flags the call may unmap nothing.
        if request.flags == VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP {
            self.release_after(iova, size, call)
        } else {
            call()
        }
    }

    /// `VFIO_IOMMU_UNMAP_DMA` with the bitmap inside a mapping. Returns the bytes unmapped.
    ///
    /// # Panics
    ///
    /// If the bitmap is not inside the mapping.
    pub fn unmap_dirty_into(
        &self,
        request: &BitmapRequest,
        memory: &Mapping,
        at: usize,
    ) -> Result<u64> {
        let call = || {
            let (mut head, bitmap) = (request.head(), request.bitmap());
            sys::with_bitmap_in(self.as_fd(), UNMAP_DMA, &mut head, bitmap, memory, at)
                .field(|| "VFIO_IOMMU_UNMAP_DMA with bitmap into a mapping".into())?;
            Ok((read_u64(&head, 16).unwrap(), ()))
        };
        self.release_after(request.iova, request.size, call)
            .map(|(unmapped, ())| unmapped)
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with `START`. Starting twice is not an error.
    pub fn dirty_start(&self) -> Result<()> {
        self.dirty_flags(HEAD, VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
            .map_err(|e| Error::new("VFIO_IOMMU_DIRTY_PAGES start", e.source))
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with `STOP`.
    pub fn dirty_stop(&self) -> Result<()> {
        self.dirty_flags(HEAD, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP)
            .map_err(|e| Error::new("VFIO_IOMMU_DIRTY_PAGES stop", e.source))
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with any flags and nothing after them.
    pub fn dirty_flags(&self, argsz: u32, flags: u32) -> Result<()> {
        let mut arg = [0; HEAD as usize];
        arg[0..4].copy_from_slice(&argsz.to_ne_bytes());
        arg[4..8].copy_from_slice(&flags.to_ne_bytes());
        sys::ioctl(self.as_fd(), DIRTY_PAGES, &mut arg)
            .map(drop)
            .field(|| format!("VFIO_IOMMU_DIRTY_PAGES flags {flags:#x}"))
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with `GET_BITMAP`: the pages written since the last call, and pinned ones. The range
    /// must not split a mapping.
    pub fn dirty_bitmap(&self, iova: u64, size: u64) -> Result<DirtyBitmap> {
        self.dirty_bitmap_raw(&BitmapRequest::get(iova, size, self.dirty_pgsize()?))
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with a range, with every value as given.
    pub fn dirty_bitmap_raw(&self, request: &BitmapRequest) -> Result<DirtyBitmap> {
        let (iova, size) = (request.iova, request.size);
        let words = sys::with_bitmap(
            self.as_fd(),
            DIRTY_PAGES,
            &mut request.head(),
            request.bitmap(),
        )
        .field(|| format!("VFIO_IOMMU_DIRTY_PAGES get, iova {iova:#x} size {size:#x}"))?;
        Ok(DirtyBitmap::new(iova, size, request.pgsize, words))
    }

    /// [`dirty_bitmap_raw`](Self::dirty_bitmap_raw) into a mapping at `offset`. type1 holds its lock while it waits for
    /// page faults on that memory.
    ///
    /// # Panics
    ///
    /// If the bitmap is not inside the mapping.
    pub fn dirty_bitmap_into(
        &self,
        request: &BitmapRequest,
        memory: &Mapping,
        offset: usize,
    ) -> Result<()> {
        let (iova, size) = (request.iova, request.size);
        sys::with_bitmap_in(
            self.as_fd(),
            DIRTY_PAGES,
            &mut request.head(),
            request.bitmap(),
            memory,
            offset,
        )
        .field(|| format!("VFIO_IOMMU_DIRTY_PAGES get, iova {iova:#x} size {size:#x}"))
    }

    /// Returns the page size of dirty bitmaps. type1 accepts only its smallest one, which for mediated devices is the
    /// page size.
    fn dirty_pgsize(&self) -> Result<u64> {
        self.iommu_info()?
            .dirty_pgsize()
            .ok_or_else(|| Error::not_found("dirty pages", "this IOMMU does not track them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_bindings::bindings::vfio as uapi;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!(
            size_of::<uapi::vfio_iommu_type1_dma_unmap>(),
            UNMAP as usize
        );
        assert_eq!(
            size_of::<uapi::vfio_iommu_type1_dirty_bitmap>(),
            HEAD as usize
        );
        assert_eq!(
            size_of::<uapi::vfio_iommu_type1_dirty_bitmap_get>(),
            RANGE as usize
        );
        assert_eq!(size_of::<uapi::vfio_bitmap>(), BITMAP as usize);
    }

    #[test]
    fn info_with_all_capabilities() {
        let mut b = vec![0; 24];
        b[4..8].copy_from_slice(&3u32.to_ne_bytes());
        b[8..16].copy_from_slice(&0xffff_ffff_ffff_f000u64.to_ne_bytes());
        b[16..20].copy_from_slice(&24u32.to_ne_bytes());
        // The migration capability at 24, dma_avail at 56, one range at 68.
        b.extend([2, 0, 1, 0, 56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        b.extend(4096u64.to_ne_bytes());
        b.extend((1u64 << 28).to_ne_bytes());
        b.extend([3, 0, 1, 0, 68, 0, 0, 0, 0xfe, 0xff, 0, 0]);
        b.extend([1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        b.extend(0u64.to_ne_bytes());
        b.extend(u64::MAX.to_ne_bytes());
        let info = IommuInfo::parse(&b).unwrap();
        assert_eq!(info.dirty_pgsize(), Some(4096));
        assert_eq!(info.migration.unwrap().max_dirty_bitmap_size, 1 << 28);
        assert_eq!(info.dma_avail, Some(0xfffe));
        assert_eq!(info.iova_ranges, [(0, u64::MAX)]);
        for cut in 0..b.len() - 16 {
            // Nothing outside is read: a truncated chain or capability is reported as broken.
            assert_eq!(IommuInfo::parse(&b[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn bitmap_sizes_round_up_to_words() {
        let r = BitmapRequest::get(0, 65 * 4096, 4096);
        assert_eq!((r.argsz, r.bitmap_size), (48, 16));
        assert_eq!(BitmapRequest::unmap(0, 4096, 4096).argsz, 48);
    }
}
