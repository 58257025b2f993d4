// SPDX-License-Identifier: GPL-2.0

//! The guest's first process.

#![forbid(unsafe_code)]

use std::panic;
use std::thread;
use std::time::Duration;

use guest::console::{Command, Console, Verify};
use guest::event::{Event, Wrong, WrongResult};
use guest::options::Options;
use guest::session::{End, Session};
use guest::system;

/// The program's serial port. The kernel console uses the first one.
const PORT: &str = "/dev/ttyS1";
/// The modules to load, the driver last.
const MODULES: &str = "/etc/modules";

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "guest: must be the first process of a guest; scripts/guest-image makes the image"
        );
        std::process::exit(2);
    }
    // If the first process ends, the kernel panics and hides the reason.
    let mounted = system::lock_memory().and_then(|()| system::mount_all());
    let mut console = match Console::open(PORT).or_else(|_| Console::open("/dev/console")) {
        Ok(console) => console,
        Err(e) => {
            eprintln!("guest: {PORT}: {e}; {mounted:?}");
            hang();
        }
    };
    let result = mounted
        .map_err(|e| Wrong::new(e.to_string()))
        .and_then(|()| options());
    let options = match result {
        Ok(options) => options,
        Err(wrong) => stop(&mut console, &wrong),
    };
    panic::set_hook(Box::new(|info| {
        if let Ok(mut console) = Console::open(PORT) {
            stop(&mut console, &Wrong::new(info.to_string()));
        }
        hang();
    }));
    let mut session = match Session::new(console, &options) {
        Ok(session) => session,
        Err((mut console, wrong)) => stop(&mut console, &wrong),
    };
    match session.run() {
        End::Asked => {
            let error = system::power_off();
            stop(
                &mut session.into_console(),
                &Wrong::new(format!("power off: {error}")),
            );
        }
        End::Wrong(wrong) => stop(&mut session.into_console(), &wrong),
    }
}

/// Reads the command line and loads the driver with its options.
fn options() -> WrongResult<Options> {
    let words = |e: std::io::Error| Wrong::new(e.to_string());
    let line = std::fs::read_to_string("/proc/cmdline").map_err(words)?;
    let options = Options::parse(&line).map_err(Wrong::new)?;
    let kib = (options.memory >> 10) / options.devices as u64;
    let parameters = format!("irq={} memory_kib={kib}", options.irq.name());
    system::insert_modules(MODULES, &parameters).map_err(words)?;
    Ok(options)
}

/// Reports what is wrong, then only waits for the command to switch off.
fn stop(console: &mut Console, wrong: &Wrong) -> ! {
    let _ = console.tell(&Event::Wrong(wrong));
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
