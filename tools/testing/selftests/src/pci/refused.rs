// SPDX-License-Identifier: GPL-2.0

//! Register accesses that the device refuses. They do not fail, because a guest can make any number of them and a VMM
//! prints a line for each failed access.

use mdma::regs::{self, Reg};
use mdma::Mdma;
use vfio_client::Region;

use crate::env::debugfs;
use crate::env::Env;
use crate::harness::check::expect_no_line;
use crate::harness::result::Result;

/// `REFUSED.REASON`.
pub(crate) const NO_REGISTER: u64 = 1;
pub(crate) const READ_ONLY: u64 = 2;
pub(crate) const WHILE_ENABLED: u64 = 3;
pub(crate) const WHILE_DISABLED: u64 = 4;
pub(crate) const ILLEGAL: u64 = 5;

/// Returns how many refused accesses the framework has counted for this instance.
pub(crate) fn counted(uuid: &str) -> Result<u64> {
    debugfs::counters(uuid, "refused")
}

/// Returns the fields of `REFUSED`: count, offset and reason.
pub(crate) fn fields(refused: u64) -> (u64, u64, u64) {
    (
        refused & u64::from(regs::REFUSED_COUNT),
        (refused >> regs::REFUSED_OFFSET_SHIFT) & u64::from(regs::REFUSED_OFFSET),
        refused >> regs::REFUSED_REASON_SHIFT,
    )
}

/// Checks that the device refuses one access to `reg`: the access succeeds, changes no register but `REFUSED`, which
/// holds the reason, increments the counter in debugfs, and logs nothing.
#[track_caller]
pub(crate) fn expect_refused<E: std::fmt::Debug>(
    env: &Env,
    uuid: &str,
    mdma: &Mdma<Region>,
    (reg, reason): (Reg, u64),
    what: &str,
    access: impl FnOnce() -> Result<(), E>,
) {
    let row = reg.row();
    let mark = env.kmsg.mark();
    let before = mdma.snapshot().expect("registers can be read");
    let count = counted(uuid).expect("debugfs shows the counter");
    access().unwrap_or_else(|e| panic!("{what}: the access failed: {e:?}"));
    let after = mdma.snapshot().expect("registers can be read");
    let changed: Vec<_> = after
        .diff(&before)
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(changed, ["REFUSED"], "{what}");
    let (times, offset, why) = fields(after.get(Reg::Refused));
    assert_eq!(times, fields(before.get(Reg::Refused)).0 + 1, "{what}");
    assert_eq!(offset & !7, row.offset & !7, "{what}");
    assert_eq!(why, reason, "{what}: REFUSED.REASON");
    let now = counted(uuid).expect("debugfs shows the counter");
    assert_eq!(now, count + 1, "{what}: debugfs");
    // A guest could fill the log.
    expect_no_line(env, uuid, mark, what);
}
