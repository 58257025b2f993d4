// SPDX-License-Identifier: GPL-2.0

//! The layout bindgen saw against the one the C compiler saw.
//!
//! Two compilers read the kernel's headers with different flags. Where they
//! disagree a module would corrupt memory it does not own, so here it does not
//! compile.

#![allow(non_upper_case_globals)]

use super::raw as bindings;
use core::mem::{
    offset_of,
    size_of, //
};

/// `SIZE_type` and `OFFSET_type__field`, from `layout.c`.
#[allow(dead_code)] // Not every compiler counts a use in an assertion.
mod c {
    include!(concat!(env!("VFIO_BINDINGS_DIR"), "/layout_generated.rs"));
}

/// Asserts the size of each type and the offset of each of its listed fields.
macro_rules! check {
    ($($size:ident: $t:ident { $($offset:ident: $f:ident),* $(,)? })*) => {
        $(
            const _: () = assert!(size_of::<bindings::$t>() == c::$size);
            $(const _: () = assert!(offset_of!(bindings::$t, $f) == c::$offset);)*
        )*
    };
}

check! {
    SIZE_mdev_device: mdev_device {
        OFFSET_mdev_device__dev: dev,
        OFFSET_mdev_device__type: type_,
    }
    SIZE_mdev_type: mdev_type {
        OFFSET_mdev_type__sysfs_name: sysfs_name,
        OFFSET_mdev_type__pretty_name: pretty_name,
        OFFSET_mdev_type__parent: parent,
    }
    SIZE_mdev_parent: mdev_parent {}
    SIZE_mdev_driver: mdev_driver {
        OFFSET_mdev_driver__device_api: device_api,
        OFFSET_mdev_driver__probe: probe,
        OFFSET_mdev_driver__remove: remove,
        OFFSET_mdev_driver__get_available: get_available,
        OFFSET_mdev_driver__show_description: show_description,
        OFFSET_mdev_driver__driver: driver,
    }
    SIZE_ratelimit_state: ratelimit_state {}
    SIZE_vfio_device: vfio_device {
        OFFSET_vfio_device__dev: dev,
        OFFSET_vfio_device__mig_ops: mig_ops,
        OFFSET_vfio_device__log_ops: log_ops,
        OFFSET_vfio_device__migration_flags: migration_flags,
        OFFSET_vfio_device__precopy_info_v2: precopy_info_v2,
        OFFSET_vfio_device__device: device,
        OFFSET_vfio_device__inode: inode,
    }
    SIZE_vfio_device_ops: vfio_device_ops {
        OFFSET_vfio_device_ops__release: release,
        OFFSET_vfio_device_ops__open_device: open_device,
        OFFSET_vfio_device_ops__ioctl: ioctl,
        OFFSET_vfio_device_ops__get_region_info_caps: get_region_info_caps,
        OFFSET_vfio_device_ops__dma_unmap: dma_unmap,
        OFFSET_vfio_device_ops__device_feature: device_feature,
    }
    SIZE_vfio_migration_ops: vfio_migration_ops {}
    SIZE_vfio_log_ops: vfio_log_ops {}
    SIZE_vfio_info_cap: vfio_info_cap {}
    SIZE_virqfd: virqfd {}
    SIZE_vfio_device_info: vfio_device_info {}
    SIZE_vfio_region_info: vfio_region_info {}
    SIZE_vfio_irq_info: vfio_irq_info {}
    SIZE_vfio_irq_set: vfio_irq_set {}
    SIZE_vfio_region_info_cap_type: vfio_region_info_cap_type {}
    SIZE_vfio_region_info_cap_sparse_mmap: vfio_region_info_cap_sparse_mmap {}
    SIZE_vfio_device_migration_info: vfio_device_migration_info {
        OFFSET_vfio_device_migration_info__pending_bytes: pending_bytes,
        OFFSET_vfio_device_migration_info__data_offset: data_offset,
        OFFSET_vfio_device_migration_info__data_size: data_size,
    }
    SIZE_vfio_precopy_info: vfio_precopy_info {}
}
