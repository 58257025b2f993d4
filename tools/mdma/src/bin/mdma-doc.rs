// SPDX-License-Identifier: GPL-2.0

//! Writes the register manual of the `mdma` device to a file or to standard output.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => print!("{}", mdma::doc::registers()),
        (Some("-h" | "--help"), None) => {
            println!(
                "usage: mdma-doc [FILE]\n\nThe file in the repository is {}.",
                mdma::doc::FILE
            );
        }
        (Some(file), None) if !file.starts_with('-') => {
            if let Err(error) = std::fs::write(file, mdma::doc::registers()) {
                eprintln!("mdma-doc: {file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!("usage: mdma-doc [FILE]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
