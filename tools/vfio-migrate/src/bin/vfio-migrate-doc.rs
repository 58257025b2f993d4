// SPDX-License-Identifier: GPL-2.0

//! Writes the man pages and shell completions of `vfio-migrate` to a directory.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use vfio_migrate::cli::Cli;

/// Writes one man page for the program and one for each command, and the completions of three shells.
fn write(dir: &Path) -> io::Result<()> {
    let mut command = Cli::command();
    clap_mangen::generate_to(command.clone(), dir)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "vfio-migrate", dir)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: vfio-migrate-doc DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio-migrate-doc: {}: {error}", Path::new(&dir).display());
            ExitCode::FAILURE
        }
    }
}
