// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is swapped out when the device needs it. These tests run only with swap space.

use mdma::job;

use crate::dma::oracle::random_jobs;
use crate::env::reclaim::under_reclaim;
use crate::env::Env;
use crate::fixture::memory::Memory;
use crate::fixture::v2::MdmaV2;
use crate::fixture::{device, guest, PAGE};
use crate::harness::result::Result;
use crate::hostile::load::migrate;
use crate::tests;

tests! { "swap" needs [Mdma, Swap]:
    p30_random_jobs_on_swapped_memory ["P30", "P31", "P32"],
    p30_random_jobs_on_registered_memory ["P30", "P31", "P32"],
    devices_migrate_meanwhile [],
}

fn p30_random_jobs_on_swapped_memory(env: &Env) -> Result {
    under_reclaim(|| random_jobs(env, env.limits.jobs / 5, false))
}

/// The mappings are registered, so that only memory of the lists can be swapped out.
fn p30_random_jobs_on_registered_memory(env: &Env) -> Result {
    under_reclaim(|| random_jobs(env, env.limits.jobs / 5, true))
}

fn devices_migrate_meanwhile(env: &Env) -> Result {
    const IOVA: u64 = 0x10_0000;
    const SIZE: usize = 8 << 20;
    under_reclaim(|| {
        let (from, to) = (MdmaV2::new(env)?, MdmaV2::new(env)?);
        let mut rng = fastrand::Rng::with_seed(env.limits.seed);
        let mut memory = Memory::new(&from, 0);
        memory.map(&from, &mut rng, IOVA, SIZE)?;
        // A page that is lost when it is swapped out is missing after the first migration: all memory is swapped out and
        // in several times in each.
        for round in 1..=(env.limits.iterations / 250).clamp(2, 20) {
            // The jobs access all the memory.
            let mut queue = from.queue(2)?;
            for at in (0..SIZE as u64).step_by(1 << 20) {
                let jobs = [
                    job::fill(guest(IOVA + at), round, 17 * PAGE),
                    job::copy(guest(IOVA + at), device(at), 1 << 20),
                    job::crc32c(guest(IOVA + at), 1 << 20),
                ];
                for job in &jobs {
                    memory.run(&mut queue, job)?;
                }
            }
            queue.close()?;
            migrate(&from, &to, round, &|| {})?;
        }
        memory.check(&from, "at the end")
    })
}
