// SPDX-License-Identifier: GPL-2.0

//! Writes the data sheet of the `mnvme` device to a file or to standard output.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => print!("{}", mnvme::doc::data_sheet()),
        (Some("-h" | "--help"), None) => {
            println!(
                "usage: mnvme-doc [FILE]\n\nThe file in the repository is {}.",
                mnvme::doc::FILE
            );
        }
        (Some(file), None) if !file.starts_with('-') => {
            if let Err(error) = std::fs::write(file, mnvme::doc::data_sheet()) {
                eprintln!("mnvme-doc: {file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!("usage: mnvme-doc [FILE]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
