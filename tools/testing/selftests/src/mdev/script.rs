// SPDX-License-Identifier: GPL-2.0

//! What a driver's own tests say about its device: files of commands, for which `--scripts` names the directory.
//!
//! ```text
//! write BAR OFFSET WIDTH VALUE   writes a register
//! read BAR OFFSET WIDTH VALUE    reads a register, which has this value
//! wait BAR OFFSET WIDTH VALUE    waits until it has
//! listen INDEX                   sets an eventfd for each vector of an interrupt index
//! signal VECTOR                  waits for a signal
//! reset                          VFIO_DEVICE_RESET
//! migrate                        saves the device, loads a new instance, and goes on there
//! ```

use std::fs;
use std::path::Path;

use vfio_client::EventFd;

use crate::env::scripts;
use crate::env::{Env, Guest};
use crate::fixture::Fixture;
use crate::harness::check::{expect_signal, wait_for};
use crate::harness::result::Result;
use crate::{fail, note, tests};

tests! { "driver":
    its_own_tests_succeed [] needs [Scripts],
}

fn its_own_tests_succeed(env: &Env) -> Result {
    let mut files: Vec<_> = fs::read_dir(scripts::directory()?)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    assert!(!files.is_empty(), "no file in the directory of --scripts");
    for file in files {
        note!("{}", file.display());
        run(env, &file)?;
    }
    Ok(())
}

/// The device, and what it signals.
struct Player {
    // Dropped in this order.
    events: Vec<EventFd>,
    index: Option<u32>,
    fixture: Fixture,
}

fn run(env: &Env, file: &Path) -> Result {
    let mut player = Player {
        events: Vec::new(),
        index: None,
        fixture: Fixture::new(env)?,
    };
    for (number, line) in (1..).zip(fs::read_to_string(file)?.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        if let Err(e) = player.obey(env, &words) {
            fail!("{}:{number}: {line}: {e}", file.display());
        }
    }
    Ok(())
}

/// Parses a decimal number, or a hexadecimal one with `0x`.
fn number(word: &str) -> Result<u64> {
    Ok(match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => word.parse()?,
    })
}

impl Player {
    fn obey(&mut self, env: &Env, words: &[&str]) -> Result {
        let numbers: Vec<u64> = words[1..]
            .iter()
            .map(|w| number(w))
            .collect::<Result<_>>()?;
        match (words[0], &numbers[..]) {
            ("write", [bar, offset, width @ 1..=8, value]) => {
                let region = self.fixture.region(*bar as u32)?;
                Ok(region.write(*offset, &value.to_le_bytes()[..*width as usize])?)
            }
            ("read", [bar, offset, width @ 1..=8, value]) => {
                let found = self.read(*bar, *offset, *width)?;
                match found == *value {
                    true => Ok(()),
                    false => fail!("found {found:#x}"),
                }
            }
            ("wait", [bar, offset, width @ 1..=8, value]) => wait_for("the register", || {
                Ok(self.read(*bar, *offset, *width)? == *value)
            }),
            ("listen", [index]) => {
                self.index = Some(*index as u32);
                let irq = self.fixture.device.irq(*index as u32)?;
                let count = irq.info().count;
                self.events = (0..count)
                    .map(|_| EventFd::new())
                    .collect::<std::io::Result<_>>()?;
                let events: Vec<_> = self.events.iter().map(Some).collect();
                Ok(irq.set_eventfds(0, &events)?)
            }
            ("signal", [vector]) => match self.events.get(*vector as usize) {
                Some(event) => {
                    expect_signal(event, "the vector");
                    Ok(())
                }
                None => fail!("nobody listens to this vector"),
            },
            ("reset", []) => {
                self.fixture.device.reset()?;
                Ok(self.fixture.device.config()?.enable()?)
            }
            ("migrate", []) => self.migrate(env),
            _ => fail!("no such command, or wrong arguments"),
        }
    }

    fn read(&self, bar: u64, offset: u64, width: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        let region = self.fixture.region(bar as u32)?;
        region.read(offset, &mut bytes[..width as usize])?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn migrate(&mut self, env: &Env) -> Result {
        let config = self.fixture.device.config()?.snapshot()?;
        let stream = self.fixture.save()?;
        let guest: Guest = env.open_subject()?;
        // The eventfds of the old device go with it.
        self.fixture = Fixture::of(guest)?;
        self.fixture.device.config()?.restore(&config)?;
        if let Some(index) = self.index {
            let irq = self.fixture.device.irq(index)?;
            let events: Vec<_> = self.events.iter().map(Some).collect();
            irq.set_eventfds(0, &events)?;
        }
        self.fixture.load(&stream)
    }
}
