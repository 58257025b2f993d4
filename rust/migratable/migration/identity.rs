// SPDX-License-Identifier: GPL-2.0

//! The identity of the device in a stream.

use crate::{
    driver::Driver,
    host_end,
    timers, //
};
use kernel::page::PAGE_SIZE;
use migration::stream::{
    self,
    Identity,
    PartTable, //
};

/// Returns the parts of the state of driver `T`.
pub(crate) const fn parts<T: Driver>() -> PartTable {
    const {
        match PartTable::new(T::PARTS, PAGE_SIZE as u32) {
            Some(parts) => parts,
            None => panic!("PARTS are not in ascending order, too many, empty or too large"),
        }
    }
}

/// Returns the identity of a device of driver `T` with that many bytes of device memory (P49).
pub(crate) fn identity<T: Driver>(memory_size: u64) -> Identity {
    let state_size_max = const {
        let mut size = T::INFO.state_size_max + timers::saved_size(T::TIMERS);
        if T::HOST_END {
            size += host_end::SAVED_SIZE;
        }
        assert!(T::INFO.device_type.len() <= 16);
        assert!(size <= u32::MAX as usize);
        size as u32
    };
    Identity {
        device_type: stream::device_type(T::INFO.device_type),
        device_version: T::INFO.version,
        features: T::INFO.features,
        memory_size,
        page_size: PAGE_SIZE as u32,
        state_size_max,
    }
}
