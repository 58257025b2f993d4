// SPDX-License-Identifier: GPL-2.0

//! What a few things that have nothing to do with the device take, here and on the host.
//!
//! User-mode Linux distorts times: code in the kernel runs at the speed of the processor, but a system call and a page
//! fault take many times what they take on the host.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use vfio_client::Mapping;

use crate::clock::Clock;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};

const PAGE: usize = 4096;
const PAGES: usize = 1024;
const KIB: usize = 1024;
/// Bytes copied at a time, which fit into the processor's second cache.
const COPIED: usize = 256 << 10;

/// The rows of the table. The first one is the unit of all costs.
const ROWS: [&str; 5] = [
    "memcpy of a KiB",
    "read of 4 bytes of /dev/zero",
    "read of 64 KiB of /dev/zero",
    "first write to a page",
    "second write to a page",
];

/// Times in nanoseconds, one for each row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Costs([f64; ROWS.len()]);

impl std::str::FromStr for Costs {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers: std::result::Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|e| format!("{text}: {e}"))?;
        let count = numbers.len();
        let costs = numbers.try_into();
        costs
            .map(Costs)
            .map_err(|_| format!("{text}: {count} numbers instead of {}", ROWS.len()))
    }
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|cost| format!("{cost:.2}")).collect();
        f.write_str(&texts.join(","))
    }
}

impl Costs {
    /// Measures them.
    pub(crate) fn measure(clock: &Clock) -> Result<Self> {
        let (from, mut to) = (vec![1u8; COPIED], vec![0u8; COPIED]);
        let copy = clock.each(64, || {
            black_box(&mut to).copy_from_slice(black_box(&from));
            Ok(())
        })?;
        let zero = File::open("/dev/zero")?;
        let mut bytes = vec![0; 64 << 10];
        let mut read =
            |len: usize| clock.each(256, || Ok(zero.read_exact_at(&mut bytes[..len], 0)?));
        let (short, long) = (read(4)?, read(64 << 10)?);
        let mut writes = [f64::MAX; 2];
        for _ in 0..5 {
            let memory = Mapping::anonymous(PAGES * PAGE)?;
            for least in &mut writes {
                let (time, ()) = clock.time(|| {
                    (0..PAGES).for_each(|page| memory.write(page * PAGE, &[1]));
                });
                *least = least.min(time as f64 / PAGES as f64);
            }
        }
        let costs = Costs([
            copy / (COPIED / KIB) as f64,
            short,
            long,
            writes[0],
            writes[1],
        ]);
        match costs.unit() > 0.0 {
            true => Ok(costs),
            false => fail!("memcpy takes no time: the clock is too coarse"),
        }
    }

    /// Returns the unit of costs: the time in which memcpy() copies a KiB.
    pub(crate) fn unit(&self) -> f64 {
        self.0[0]
    }

    /// Returns these times beside those of the host.
    pub(crate) fn beside(&self, host: &Costs) -> Table {
        let mut table = Table::new(
            "host",
            "What user-mode Linux distorts: times in nanoseconds, here and on the host. Take no system call's and no \
             page fault's cost from the tables below.",
            &["what", "here", "host", "here/host"],
        );
        for ((name, here), host) in ROWS.iter().zip(self.0).zip(host.0) {
            table.row([
                (*name).into(),
                Cell::Count(here),
                Cell::Count(host),
                Cell::Ratio(here / host),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let costs: Costs = "1.5,2,3,4,5.25".parse().unwrap();
        assert_eq!(costs.to_string(), "1.50,2.00,3.00,4.00,5.25");
        assert_eq!(costs.to_string().parse(), Ok(costs));
        assert!("1,2,3,4".parse::<Costs>().is_err());
        assert!("1,2,3,4,x".parse::<Costs>().is_err());
    }

    #[test]
    fn the_host_can_be_measured() {
        let costs = Costs::measure(&Clock::uncalibrated()).unwrap();
        assert!(costs.0.iter().all(|cost| *cost > 0.0), "{costs}");
    }
}
