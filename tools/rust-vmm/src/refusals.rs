// SPDX-License-Identifier: GPL-2.0

//! Data that a destination must refuse.

use vfio_bindings::bindings::vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING as RUNNING;

use crate::error::{expect_eq, fail, Result};
use crate::machine::Machine;
use crate::migratable::Snapshot;
use crate::setup::{go_on, stop_and_save, Setup};
use crate::work::{Work, USED};

/// The destination must refuse these data, run after its reset, and be usable. The source goes on, and moves.
fn refused(setup: &Setup, seed: u64, other: &str, spoil: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Result {
    let (source, mut work) = setup.at_work(seed)?;
    let destination = Machine::new(other, setup.kvm)?;
    let snapshot = stop_and_save(&source, &destination)?;
    let command = snapshot.command;
    for (number, data) in spoil(&snapshot.data).into_iter().enumerate() {
        let size = data.len();
        let spoiled = Snapshot { command, data };
        let result = destination
            .restore(&spoiled)
            .and_then(|()| destination.resume(command));
        if result.is_ok() {
            fail!("spoiled data number {number}, {size} bytes, were accepted");
        }
        expect_eq!(
            destination.device.get_migration_state()?,
            RUNNING,
            "after number {number}"
        );
        if destination
            .memory
            .to_vec(0, USED as usize)
            .iter()
            .any(|byte| *byte != 0)
        {
            fail!("after number {number} the device memory is not empty");
        }
        Work::new(&destination, seed)?.round(&destination)?;
        destination.device.reset();
    }
    source.resume(command)?;
    work.round(&source)?;
    work.check(&source)?;
    drop(destination);
    let destination = setup.machine()?;
    let snapshot = stop_and_save(&source, &destination)?;
    go_on(work, &snapshot, &destination)
}

pub(crate) fn truncated(setup: &Setup) -> Result {
    refused(setup, 5, &setup.mdev_type, |data| {
        let cuts = [0, 1, data.len() / 2, data.len() - 1];
        cuts.iter().map(|cut| data[..*cut].to_vec()).collect()
    })
}

pub(crate) fn flipped(setup: &Setup) -> Result {
    refused(setup, 6, &setup.mdev_type, |data| {
        let bits = [3, data.len() * 4, data.len() * 8 - 1];
        let flip = |bit: &usize| {
            let mut data = data.to_vec();
            data[bit / 8] ^= 1 << (bit % 8);
            data
        };
        bits.iter().map(flip).collect()
    })
}

pub(crate) fn other_size(setup: &Setup) -> Result {
    refused(setup, 7, &setup.other_type, |data| vec![data.to_vec()])
}
