// SPDX-License-Identifier: GPL-2.0

//! `VFIO_DEVICE_GET_REGION_INFO`: sizes, flags and capabilities of the regions.

use crate::{
    device::Device,
    driver::Driver,
    region::Region, //
};
use core::mem::{
    offset_of,
    size_of, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};
use vfio::{
    log::Refusal,
    INDEX_SHIFT, //
};
use vfio_bindings as bindings;

/// The sparse mmap capability with its areas.
#[repr(C)]
struct SparseMmap {
    cap: bindings::vfio_region_info_cap_sparse_mmap,
    areas: [bindings::vfio_region_sparse_mmap_area; 2],
}

// The areas have to be where the flexible array of the capability is.
const _: () = assert!(
    offset_of!(SparseMmap, areas) == size_of::<bindings::vfio_region_info_cap_sparse_mmap>()
);

impl<T: Driver> Device<T> {
    /// Fills in `VFIO_DEVICE_GET_REGION_INFO`.
    ///
    /// # Safety
    ///
    /// `caps` points to the capabilities that belong to `info`.
    pub(crate) unsafe fn fill_region_info(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result<(), Refusal> {
        let region = self.region(info.index.into())?;

        info.offset = u64::from(info.index) << INDEX_SHIFT;
        info.size = region.size();
        info.flags = match region {
            Region::Absent => 0,
            Region::Memory { .. } => {
                bindings::VFIO_REGION_INFO_FLAG_READ
                    | bindings::VFIO_REGION_INFO_FLAG_WRITE
                    | bindings::VFIO_REGION_INFO_FLAG_MMAP
            }
            _ => bindings::VFIO_REGION_INFO_FLAG_READ | bindings::VFIO_REGION_INFO_FLAG_WRITE,
        };

        if let Region::Migration { .. } = region {
            // SAFETY: By the requirement of this function.
            unsafe { self.migration_caps(info, caps)? };
        }
        Ok(())
    }

    /// Adds the capabilities of the migration region (P1, P28).
    ///
    /// # Safety
    ///
    /// As [`Device::fill_region_info`].
    unsafe fn migration_caps(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result {
        let (type_, subtype) = self.migration_type();
        let mut kind = bindings::vfio_region_info_cap_type {
            header: bindings::vfio_info_cap_header {
                id: bindings::VFIO_REGION_INFO_CAP_TYPE as u16,
                version: 1,
                next: 0,
            },
            type_,
            subtype,
        };
        // SAFETY: `caps` is valid by the requirement of this function, and `kind` is a capability of
        // the given size, which is copied.
        to_result(unsafe {
            bindings::vfio_info_add_capability(caps, &mut kind.header, size_of_val(&kind))
        })?;

        let (areas, count) = self.migration_areas();
        if count > 0 {
            let mut sparse = SparseMmap {
                cap: bindings::vfio_region_info_cap_sparse_mmap {
                    header: bindings::vfio_info_cap_header {
                        id: bindings::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16,
                        version: 1,
                        next: 0,
                    },
                    nr_areas: count as u32,
                    ..Default::default()
                },
                areas: areas
                    .map(|(offset, size)| bindings::vfio_region_sparse_mmap_area { offset, size }),
            };
            let area = size_of::<bindings::vfio_region_sparse_mmap_area>();
            let len = offset_of!(SparseMmap, areas) + count * area;

            info.flags |= bindings::VFIO_REGION_INFO_FLAG_MMAP;
            // SAFETY: As above; the pointer is derived from the whole of `sparse`.
            to_result(unsafe {
                bindings::vfio_info_add_capability(
                    caps,
                    (&raw mut sparse).cast::<bindings::vfio_info_cap_header>(),
                    len,
                )
            })?;
        }
        Ok(())
    }
}
