// SPDX-License-Identifier: GPL-2.0

//! The second process's side of the messages that `second.rs` describes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostile::{Victim, NOBODY};
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use vfio_client::{passing, Node};

use crate::budget::Budget;
use crate::calls;
use crate::domain::Kind as Slotted;
use crate::ended::{Ended, Result};
use crate::program::Program;
use crate::second::MESSAGE;
use crate::world::World;

/// The second process's `main`.
pub(crate) fn main(until: Option<u64>) -> std::result::Result<(), String> {
    serve(until).map_err(|e| format!("the second process: {e}"))
}

/// Makes this process, which has one thread, an ordinary user's.
///
/// If the first process asked for that with the start, it would be copied with all of its memory.
fn lower() -> io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_gid(Gid::from_raw(NOBODY))?;
    set_thread_uid(Uid::from_raw(NOBODY))?;
    Ok(())
}

fn serve(until: Option<u64>) -> io::Result<()> {
    lower()?;
    let socket = io::stdin();
    let mut message = vec![0; MESSAGE];
    // Do nothing before the first message: the process may not be in its control group yet.
    let mut received = passing::receive(&socket, &mut message)?;
    let world = Arc::new(World::new(World::ground()?, Budget::until(until))?);
    // Kept open for the first process to take.
    let mut victims = Vec::new();
    while received.0 > 0 {
        let (len, fd) = received;
        let text = String::from_utf8_lossy(&message[..len]).into_owned();
        let answer = match text.strip_prefix("stalled ") {
            Some(rest) => match stalled(&world, rest) {
                Ok(victim) => {
                    let answer = format!("at {}", victim.announcement());
                    victims.push(victim);
                    answer
                }
                Err(e) => format!("errno {}", e.raw_os_error().unwrap_or(0)),
            },
            None => match handle(&world, &text, fd) {
                Ok(value) => format!("done {value}"),
                Err(Ended::Errno(number)) => format!("errno {number}"),
                Err(Ended::Empty | Ended::Stuck) => "empty".into(),
            },
        };
        if passing::send(&socket, answer.as_bytes(), None).is_err() {
            // The first process was killed.
            break;
        }
        received = passing::receive(&socket, &mut message)?;
    }
    Ok(())
}

fn stalled(world: &World, text: &str) -> io::Result<Victim> {
    let (slot, spec) = text.split_once(' ').unwrap_or(("0", text));
    let victim = Victim::new(spec)?;
    let slot = slot.parse().unwrap_or(0);
    world.mappings.put(slot, victim.memory().clone());
    Ok(victim)
}

fn handle(world: &Arc<World>, text: &str, fd: Option<OwnedFd>) -> Result {
    if let (Some(rest), Some(fd)) = (text.strip_prefix("put "), fd) {
        for kind in [
            Slotted::Device,
            Slotted::Data,
            Slotted::Container,
            Slotted::Group,
        ] {
            let slot = rest.strip_prefix(kind.letter()).map(str::parse);
            if let (Some(Ok(slot)), Some(nodes)) = (slot, world.nodes(kind)) {
                nodes.put(slot, Node::from(fd));
                return Ok(0);
            }
        }
        return Err(Ended::Empty);
    }
    let program: Program = text.parse().map_err(|_| Ended::Empty)?;
    match &program.calls[..] {
        [call] => calls::make(world, call),
        _ => Err(Ended::Empty),
    }
}
