// SPDX-License-Identifier: GPL-2.0

//! `vfio-migrate` saves, loads, transfers and inspects the state of VFIO devices.

#![forbid(unsafe_code)]

mod all;
mod answer;
mod bar;
mod connection;
mod follow;
mod plot;
mod show;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use migration::stream::IdentityText;
use serde_json::{json, Value};
use vfio_client::mdev::{Instance, Sysfs, Uuid};
use vfio_client::{Device, Error};
use vfio_migrate::cli::{Cli, Command};
use vfio_migrate::file::NewFile;
use vfio_migrate::{
    file, identity, inspect, list, receive, send, transfer, version, Failure, Inspection, Kind,
    Protocol,
};

use crate::answer::Answer;
use crate::bar::Bar;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut bar = Bar::new(cli.quiet || cli.json);
    let result = run(&cli, &mut bar);
    bar.clear();
    let name = cli.command.name();
    let (text, json, code) = match &result {
        Ok(answer) => {
            let mut json = json!({ "command": name, "ok": answer.code == 0 });
            merge(&mut json, answer.json.clone());
            (answer.text.clone(), json, answer.code)
        }
        Err(failure) => {
            let error = show::failure_json(failure);
            let json = json!({ "command": name, "ok": false, "error": error });
            (show::failure(failure), json, failure.kind as u8)
        }
    };
    let text = if cli.json { json.to_string() } else { text };
    // Standard output may hold the stream.
    let to_stderr = (result.is_err() && !cli.json) || writes_stream(&cli.command);
    let written = match to_stderr {
        true => writeln!(io::stderr(), "{text}"),
        false => writeln!(io::stdout(), "{text}"),
    };
    match written {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(Kind::Failed as u8),
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => into.extend(from),
        (Value::Object(into), from) => {
            into.insert("result".into(), from);
        }
        _ => {}
    }
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn writes_stream(command: &Command) -> bool {
    match command {
        Command::Save { file, .. } => is_standard(file),
        Command::Send { to, command, .. } => to.is_none() && command.is_none(),
        Command::Receive { listen, .. } => listen.is_none(),
        _ => false,
    }
}

fn run(cli: &Cli, bar: &mut Bar) -> Result<Answer, Failure> {
    match &cli.command {
        Command::List => {
            let entries = list(&Sysfs::default())?;
            Ok(Answer::new(
                show::list(&entries),
                json!({ "devices": entries }),
            ))
        }
        Command::Save {
            uuid,
            file: path,
            pre_copy,
            force,
            drive,
        } => {
            let (protocol, access) = (drive.protocol(), drive.access());
            let saved = if is_standard(path) {
                let mut out = io::stdout().lock();
                let device = open_source(uuid, bar)?;
                let saved = file::save(&device, protocol, access, *pre_copy, &mut out, bar)?;
                out.flush()
                    .map_err(|e| Error::new("write to standard output", e))?;
                saved
            } else {
                let mut out = NewFile::create(path, *force)?;
                let device = open_source(uuid, bar)?;
                let saved = file::save(&device, protocol, access, *pre_copy, &mut out, bar)?;
                out.commit()?;
                saved
            };
            Ok(Answer::new(show::saved(&saved), &saved))
        }
        Command::Load {
            uuid,
            file: path,
            drive,
        } => {
            let (mut input, size) = input(path)?;
            let kept = Kept::new(uuid)?;
            let device = open(uuid)?;
            let (protocol, access) = (drive.protocol(), drive.access());
            let loaded = file::load(&device, protocol, access, &mut input, size, bar)?;
            kept.confirm();
            Ok(Answer::new(show::loaded(&loaded), &loaded))
        }
        Command::Transfer {
            source,
            destination,
            how,
            drive,
        } => {
            if source == destination {
                let error = Error::other("transfer", "source and destination are the same device");
                return Err(error.into());
            }
            let kept = Kept::new(destination)?;
            let src = open_source(source, bar)?;
            let dst = open(destination)?;
            let report = transfer(&src, &dst, &drive.options(*how), bar)?;
            kept.confirm();
            Ok(Answer::new(show::transferred(&report), &report))
        }
        Command::Send {
            uuid,
            to,
            command,
            how,
            link,
            drive,
        } => {
            let device = open_source(uuid, bar)?;
            let mut link = connection::to(to.as_deref(), command.as_deref(), link.timeout())?;
            let sent = send(&device, &mut link, &drive.options(*how), bar);
            if matches!(&sent, Err(failure) if failure.kind == Kind::Undecided) {
                // This may be the only copy of the state.
                Sysfs::default().instance(uuid)?.keep_state(true)?;
            }
            let report = sent?;
            Ok(Answer::new(show::transferred(&report), &report))
        }
        Command::Receive {
            uuid,
            listen,
            link,
            drive,
        } => {
            let kept = Kept::new(uuid)?;
            let device = open(uuid)?;
            let mut link = connection::from(listen.as_deref(), link.timeout())?;
            let received = receive(&device, drive.protocol(), drive.access(), &mut link, bar)?;
            kept.confirm();
            Ok(Answer::new(show::received(&received), &received))
        }
        Command::Watch {
            uuid,
            once,
            interval,
            plot,
        } => {
            let instance = Sysfs::default().instance(uuid)?;
            follow::follow(&instance, *once, *interval, cli.json, plot.as_deref())
        }
        Command::Plot {
            figures,
            page,
            force,
        } => plot::plot(figures, page, *force),
        Command::SaveAll { directory, force } => {
            let saved = all::save_all(&Sysfs::default(), directory, *force, bar)?;
            Ok(Answer::new(show::all(&saved), json!({ "devices": saved })))
        }
        Command::LoadAll { directory } => {
            let loaded = all::load_all(&Sysfs::default(), directory, bar)?;
            Ok(Answer::new(
                show::all(&loaded),
                json!({ "devices": loaded }),
            ))
        }
        Command::Inspect { file: path, device } => {
            let (mut input, size) = input(path)?;
            bar.begin("inspect", size.unwrap_or(0));
            let mut done = 0;
            let found = inspect(&mut input, &mut |bytes| {
                bar.advance(bytes - done);
                done = bytes;
            })
            .map_err(|e| Error::new(format!("read {}", path.display()), e))?;
            let mut answer = Answer::new(show::inspected(&found), &found);
            if found.broken.is_some() {
                answer.code = Kind::Refused as u8;
            }
            if let Some(uuid) = device {
                preflight(&found, uuid, &mut answer)?;
            }
            Ok(answer)
        }
    }
}

/// Adds whether a device would take the stream.
fn preflight(found: &Inspection, uuid: &Uuid, answer: &mut Answer) -> Result<(), Failure> {
    let device = match version(&Sysfs::default().instance(uuid)?)? {
        Some(version) => version,
        // A driver without the attribute loads one version.
        None => {
            let identity = identity(&open(uuid)?, Protocol::Auto)?;
            IdentityText {
                identity,
                oldest_version: identity.device_version,
            }
        }
    };
    let accept = |stream| device.identity.accept_since(device.oldest_version, stream);
    let refusal = match (&found.identity, &found.broken) {
        (Some(stream), _) if accept(stream).is_err() => {
            accept(stream).err().map(|error| error.to_string())
        }
        (_, Some(_)) | (None, None) => Some("the stream is broken".into()),
        (Some(_), None) => None,
    };
    let text = match &refusal {
        None => format!("device     {uuid} would take it"),
        Some(why) => format!("device     {uuid} would refuse it: {why}"),
    };
    answer.text = format!("{}\n{text}", answer.text);
    merge(
        &mut answer.json,
        json!({ "accepted": refusal.is_none(), "refusal": refusal }),
    );
    if refusal.is_some() {
        answer.code = Kind::Refused as u8;
    }
    Ok(())
}

/// Sets `keep_state` of a device that is about to be loaded, so that its state survives the close.
struct Kept {
    instance: Instance,
    /// Restores `keep_state`, because nothing was loaded.
    undo: bool,
}

impl Kept {
    fn new(uuid: &Uuid) -> Result<Self, Failure> {
        let instance = Sysfs::default().instance(uuid)?;
        let undo = instance.keeps_state()? == Some(false);
        if undo {
            instance.keep_state(true)?;
        }
        Ok(Kept { instance, undo })
    }

    /// Marks the load as done.
    fn confirm(mut self) {
        self.undo = false;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.undo {
            if let Err(e) = self.instance.keep_state(false) {
                eprintln!("vfio-migrate: {e}");
            }
        }
    }
}

/// Opens a device whose state is to be saved.
fn open_source(uuid: &Uuid, bar: &mut Bar) -> Result<Device, Failure> {
    if Sysfs::default().instance(uuid)?.keeps_state()? == Some(false) {
        bar.clear();
        eprintln!("vfio-migrate: keep_state of {uuid} is 0, so its last close has reset it");
    }
    open(uuid)
}

/// Opens a device in a new container.
fn open(uuid: &Uuid) -> Result<Device, Failure> {
    Ok(Sysfs::default().instance(uuid)?.open_alone()?)
}

/// Opens a file for reading; returns its size if known.
fn input(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if is_standard(path) {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let open = || {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let size = meta.is_file().then_some(meta.len());
        Ok((BufReader::with_capacity(1 << 16, file), size))
    };
    let (file, size) =
        open().map_err(|e: io::Error| Error::new(format!("open {}", path.display()), e))?;
    Ok((Box::new(file), size))
}
