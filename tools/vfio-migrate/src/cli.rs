// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vfio_client::mdev::Uuid;
use vfio_client::v1;

use crate::format::parse_bytes;
use crate::{Options, Protocol, Until};

/// Saves, loads, transfers and inspects the state of VFIO devices.
///
/// Exit codes: 0 success; 1 failure; 2 wrong usage; 3 the destination refused, or the stream is invalid; 4 the device
/// cannot be migrated; 5 the link broke while the destination began to run.
#[derive(Debug, Parser)]
#[command(name = "vfio-migrate", version, max_term_width = 100)]
pub struct Cli {
    /// The command
    #[command(subcommand)]
    pub command: Command,

    /// Print one JSON object instead of text, for errors too
    #[arg(long, global = true)]
    pub json: bool,

    /// Do not print progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List mediated devices and whether they can migrate
    ///
    /// Opens each idle device briefly to query it.
    List,

    /// Save the state of a device to a file
    ///
    /// The file appears only when it is complete and on disk. The device continues to run afterwards. An instance whose
    /// `keep_state` is 0 was reset when its last user closed it.
    Save {
        /// The device
        uuid: Uuid,
        /// The file to write; `-` is standard output
        file: PathBuf,
        /// Save while the device runs, and stop it only for the rest
        #[arg(long)]
        pre_copy: bool,
        /// Overwrite the file
        #[arg(long)]
        force: bool,
        /// How to drive the device
        #[command(flatten)]
        drive: Drive,
    },

    /// Load the state of a device from a file
    ///
    /// The device runs afterwards. If the load fails, the device is reset. Sets `keep_state` of the instance, which
    /// needs root, so that the state is kept for the next user.
    Load {
        /// The device
        uuid: Uuid,
        /// The file to read; `-` is standard input
        file: PathBuf,
        /// How to drive the device
        #[command(flatten)]
        drive: Drive,
    },

    /// Move the state of one device to another
    ///
    /// Afterwards the source is stopped and the destination runs. If the transfer fails, the source continues to run.
    /// Sets `keep_state` of the destination, as `load` does.
    Transfer {
        /// The source device
        source: Uuid,
        /// The destination device
        destination: Uuid,
        /// How to transfer
        #[command(flatten)]
        how: How,
        /// How to drive the device
        #[command(flatten)]
        drive: Drive,
    },

    /// Send the state of a device to another machine
    ///
    /// The other end runs `vfio-migrate receive`. Without `--to` and `--command`, the link is standard input and
    /// output. It is not encrypted: use ssh outside of a trusted network. Afterwards the source is stopped and the
    /// destination runs. If the destination refuses or the link breaks, the source continues to run.
    Send {
        /// The source device
        uuid: Uuid,
        /// Connect to this address: 192.0.2.1:4444, host.example:4444; an IPv6 address is in brackets
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "command")]
        to: Option<String>,
        /// Run this shell command and use its input and output: 'ssh host vfio-migrate receive UUID'
        #[arg(long, value_name = "COMMAND")]
        command: Option<String>,
        /// How to transfer
        #[command(flatten)]
        how: How,
        /// The link
        #[command(flatten)]
        link: LinkArgs,
        /// How to drive the device
        #[command(flatten)]
        drive: Drive,
    },

    /// Receive the state of a device from another machine
    ///
    /// The other end runs `vfio-migrate send`. Without `--listen`, the link is standard input and output, for ssh. The
    /// device runs afterwards. If the transfer fails or the link breaks, the device is reset. Sets `keep_state` of the
    /// device, as `load` does.
    Receive {
        /// The destination device
        uuid: Uuid,
        /// Accept one connection at this address: 192.0.2.2:4444; an IPv6 address is in brackets
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<String>,
        /// The link
        #[command(flatten)]
        link: LinkArgs,
        /// How to drive the device
        #[command(flatten)]
        drive: Drive,
    },

    /// Check a file and describe its contents
    ///
    /// Verifies every checksum, number and count. Needs no device, except for `--device`.
    Inspect {
        /// The file; `-` is standard input
        file: PathBuf,
        /// Tell whether this device would take the file; it must be idle, and loads nothing
        #[arg(long, value_name = "UUID")]
        device: Option<Uuid>,
    },

    /// Follow a migration that another program drives
    ///
    /// Shows state, pass, bytes, rate and downtime of a device from debugfs, which needs root. Prints a line for each
    /// change of state or pass, and every second between them; with `--json` a JSON object each. Ends when the device is removed.
    Watch {
        /// The device
        uuid: Uuid,
        /// End after the next migration
        #[arg(long)]
        once: bool,
        /// Milliseconds between two samples
        #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        interval: u64,
        /// Draw the next migration as an HTML page, and end after it
        ///
        /// Sampled more often, passes and states are told apart better. An existing file is replaced.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },

    /// Draw a migration as an HTML page
    ///
    /// Reads figures that `make run` wrote, and draws what was copied in each pass, the states over time and the
    /// downtime magnified. The page holds everything that it shows: it loads nothing and has no script. Needs no device.
    Plot {
        /// The figures: a JSON file
        figures: PathBuf,
        /// The page to write
        page: PathBuf,
        /// Overwrite the page
        #[arg(long)]
        force: bool,
    },

    /// Save all devices to a directory, before their module is replaced
    ///
    /// Saves each mediated device that can migrate, with its type and parent. All must be idle. Those whose
    /// `keep_state` is 0 have no state to save.
    SaveAll {
        /// The directory to write
        directory: PathBuf,
        /// Overwrite the files
        #[arg(long)]
        force: bool,
    },

    /// Create and load all devices of a directory
    ///
    /// Creates those that do not exist.
    LoadAll {
        /// The directory that `save-all` wrote
        directory: PathBuf,
    },
}

/// How to transfer.
#[derive(Clone, Copy, Debug, Args)]
pub struct How {
    /// Pre-copy passes while the source runs; 0 stops it at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        default_value_if("until", clap::builder::ArgPredicate::IsPresent, "30")
    )]
    pre_copy_passes: u32,
    /// End pre-copy early when at most this much is left: 65536, 64K, 8M
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    until: Option<u64>,
    /// Do not copy configuration space to the destination
    #[arg(long)]
    no_config: bool,
}

/// The link to another machine.
#[derive(Clone, Copy, Debug, Args)]
pub struct LinkArgs {
    /// Fail when the other end is silent for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl LinkArgs {
    /// Returns the time after which the other end counts as lost.
    pub fn timeout(self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// How to drive devices.
#[derive(Clone, Copy, Debug, Args)]
pub struct Drive {
    /// The migration protocol
    #[arg(long, visible_alias = "abi", value_enum, default_value_t = ProtocolArg::Auto)]
    protocol: ProtocolArg,
    /// How data of a region moves: through the mapping, in one call per buffer, or in 8-byte calls
    #[arg(long, value_enum)]
    access: Option<AccessArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolArg {
    Auto,
    V1,
    V2,
    /// The region of July 2019
    V7,
    /// The region of November 2018
    #[value(name = "2018")]
    V2018,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccessArg {
    Mapped,
    Trapped,
    Words,
}

impl Drive {
    /// Returns the protocol.
    pub fn protocol(self) -> Protocol {
        match self.protocol {
            ProtocolArg::Auto => Protocol::Auto,
            ProtocolArg::V1 => Protocol::V1,
            ProtocolArg::V2 => Protocol::V2,
            ProtocolArg::V7 => Protocol::V7,
            ProtocolArg::V2018 => Protocol::V2018,
        }
    }

    /// Returns how v1 data moves; `None` for the default.
    pub fn access(self) -> Option<v1::Access> {
        self.access.map(|access| match access {
            AccessArg::Mapped => v1::Access::Mapped,
            AccessArg::Trapped => v1::Access::Trapped,
            AccessArg::Words => v1::Access::TrappedWords,
        })
    }

    /// Returns the options of a transfer.
    pub fn options(self, how: How) -> Options {
        Options {
            protocol: self.protocol(),
            access: self.access(),
            until: match (how.pre_copy_passes, how.until) {
                (0, _) => Until::None,
                (passes, None) => Until::Passes(passes),
                (passes, Some(bytes)) => Until::Pending { bytes, passes },
            },
            config: !how.no_config,
            run: true,
        }
    }
}

impl Command {
    /// Returns the name of the command.
    pub fn name(&self) -> &'static str {
        match self {
            Command::List => "list",
            Command::Save { .. } => "save",
            Command::Load { .. } => "load",
            Command::Transfer { .. } => "transfer",
            Command::Send { .. } => "send",
            Command::Receive { .. } => "receive",
            Command::Inspect { .. } => "inspect",
            Command::Watch { .. } => "watch",
            Command::Plot { .. } => "plot",
            Command::SaveAll { .. } => "save-all",
            Command::LoadAll { .. } => "load-all",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    const B: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";

    fn until(args: &[&str]) -> Until {
        let all = [&["vfio-migrate", "transfer", A, B], args].concat();
        match Cli::try_parse_from(all).unwrap().command {
            Command::Transfer { how, drive, .. } => drive.options(how).until,
            _ => unreachable!(),
        }
    }

    #[test]
    fn passes_and_until() {
        assert_eq!(until(&[]), Until::Passes(1));
        assert_eq!(until(&["--pre-copy-passes", "0"]), Until::None);
        assert_eq!(
            until(&["--until", "8M"]),
            Until::Pending {
                bytes: 8 << 20,
                passes: 30
            }
        );
        assert_eq!(
            until(&["--until", "1K", "--pre-copy-passes=4"]),
            Until::Pending {
                bytes: 1024,
                passes: 4
            }
        );
    }

    #[test]
    fn abi_is_another_name_of_protocol() {
        for (name, protocol) in [
            ("v1", Protocol::V1),
            ("v2", Protocol::V2),
            ("v7", Protocol::V7),
            ("2018", Protocol::V2018),
        ] {
            for option in ["--abi", "--protocol"] {
                let cli = Cli::try_parse_from(["vfio-migrate", "save", A, "f", option, name]);
                match cli.unwrap().command {
                    Command::Save { drive, .. } => assert_eq!(drive.protocol(), protocol),
                    _ => unreachable!(),
                }
            }
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for args in [
            &["vfio-migrate"][..],
            &["vfio-migrate", "save", "not-a-uuid", "f"],
            &["vfio-migrate", "transfer", A, B, "--until", "many"],
            &[
                "vfio-migrate",
                "send",
                A,
                "--to",
                "h:1",
                "--command",
                "true",
            ],
            &["vfio-migrate", "watch", A, "--interval", "0"],
        ] {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2);
        }
    }
}
