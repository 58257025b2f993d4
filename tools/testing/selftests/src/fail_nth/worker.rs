// SPDX-License-Identifier: GPL-2.0

//! Fault injection in work of the device that no system call waits for.

use mdma::job;
use mdma::regs::{self, Reg};

use crate::env::Env;
use crate::fail_nth::device::usable;
use crate::fail_nth::sweep::Sweep;
use crate::fixture;
use crate::fixture::v2::MdmaV2;
use crate::harness::check::wait_for;
use crate::harness::result::Result;
use crate::tests;

tests! { "fail_nth" needs [Mdma, FaultInjection]:
    jobs [],
}

/// After each fault, the job completes or the queue halts, and the device works after a reset.
fn jobs(env: &Env) -> Result {
    const IOVA: u64 = 0x10_0000;
    const LEN: u64 = 20_000;
    let dev = MdmaV2::new(env)?;
    let mut sweep = Sweep::new()?;
    let buffer = dev.buffer(IOVA, 1 << 20)?;
    let (guest, device) = (fixture::guest(IOVA + 100), fixture::device(4000));
    for (name, job) in [
        ("a job from guest to device", job::copy(guest, device, LEN)),
        ("a job from device to guest", job::copy(device, guest, LEN)),
        ("a checksum of guest memory", job::crc32c(guest, LEN)),
    ] {
        for (kind, step) in [
            ("failslab", 32),
            ("fail_page_alloc", 1),
            ("fail_usercopy", 1),
        ] {
            sweep.over_workers(
                &format!("{name}, {kind}"),
                kind,
                step,
                || {
                    dev.reset()?;
                    dev.write_memory(4000, &[7; LEN as usize / 2])?;
                    Ok(dev.device.config()?.enable()?)
                },
                || {
                    let mut queue = dev.queue(2)?;
                    queue.submit(&job)?;
                    let mut record = None;
                    wait_for("the job to end, or the queue to halt", || {
                        record = record.take().or_else(|| queue.poll());
                        let status = dev.mdma.get(Reg::Status)?;
                        Ok(record.is_some() || status & u64::from(regs::STATUS_HALTED) != 0)
                    })?;
                    let done = record.is_some_and(|record| record.error == 0);
                    Ok(done)
                },
                || {
                    dev.reset()?;
                    usable(&dev)
                },
            )?;
        }
    }
    drop(buffer);
    sweep.finish()
}
