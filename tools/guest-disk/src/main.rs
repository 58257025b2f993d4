// SPDX-License-Identifier: GPL-2.0

//! The first process of a guest with an NVMe disk, which the kernel's own driver runs.
//!
//! It makes a file system on the disk, and lets fio write and verify files on it without end. It speaks the same
//! language as the program of `tools/guest`: `Documentation/guest.rst`.
//!
//! | module  | contents                                               |
//! |---------|--------------------------------------------------------|
//! | `cli`   | what `nvme-cli` says about the controller              |
//! | `disk`  | the disk, its file system, and what the kernel counts  |
//! | `fio`   | the rounds of fio                                      |
//! | `log`   | trouble that the kernel logs, that of disks included   |
//! | `work`  | the heartbeat, and the commands of the host            |
//! | `wrong` | what went wrong                                        |

#![forbid(unsafe_code)]

mod cli;
mod disk;
mod fio;
mod log;
mod work;
mod wrong;

use std::thread;
use std::time::Duration;

use guest::console::{Command, Console, Verify};
use guest::system;
use serde::Serialize;

use wrong::Wrong;

/// The program's serial port. The kernel console uses the first one.
const PORT: &str = "/dev/ttyS1";
/// The modules to load.
const MODULES: &str = "/etc/modules";

/// An event for the host: what is wrong.
#[derive(Serialize)]
struct WrongEvent<'a> {
    event: &'static str,
    what: &'a str,
}

fn main() {
    if std::process::id() != 1 {
        eprintln!("guest-disk: must be the first process of a guest");
        std::process::exit(2);
    }
    // If the first process ends, the kernel panics and hides the reason.
    let mounted = system::mount_all();
    let Ok(mut console) = Console::open(PORT).or_else(|_| Console::open("/dev/console")) else {
        hang();
    };
    let result = mounted
        .map_err(Wrong::from)
        .and_then(|()| Ok(system::insert_modules(MODULES, "")?))
        .and_then(|()| work::run(&mut console));
    match result {
        Ok(()) => stop(&mut console, &format!("power off: {}", system::power_off())),
        Err(wrong) => stop(&mut console, &wrong.to_string()),
    }
}

/// Reports what is wrong, then only waits for the command to switch off.
fn stop(console: &mut Console, what: &str) -> ! {
    let _ = console.tell(&WrongEvent {
        event: "wrong",
        what,
    });
    while let Ok(commands) = console.commands() {
        if commands.contains(&Ok(Command::Verify(Verify::End))) {
            let _ = system::power_off();
        }
    }
    hang();
}

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
