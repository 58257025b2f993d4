// SPDX-License-Identifier: GPL-2.0

//! A program and its text form.
//!
//! ```text
//! # comments are skipped
//! create i0 mdma-16M
//! container c0
//! 1| v1_state d0 pre_copy
//! 2| doorbell d0 0x2
//! reset d0
//! ```
//!
//! Lines with a number and a bar run in that thread, concurrently with the adjacent lines of other threads. Lines with
//! `p` and a bar run like that in the second process.

use std::fmt;
use std::str::FromStr;

use crate::domain::Domain;
use crate::grammar::Op;

/// Highest thread number in a program.
pub(crate) const THREADS: u8 = 4;

/// The "thread" number of the second process.
pub(crate) const SECOND: u8 = THREADS + 1;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// The thread, if it runs beside others.
    pub(crate) thread: Option<u8>,
    /// The operation.
    pub(crate) op: Op,
    /// The arguments, as many as the row has.
    pub(crate) args: Vec<u64>,
}

/// Calls, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// The calls.
    pub(crate) calls: Vec<Call>,
}

impl Program {
    /// Returns the calls in groups; see [`steps`].
    #[cfg(test)]
    pub(crate) fn steps(&self) -> impl Iterator<Item = &[Call]> {
        steps(&self.calls)
    }
}

/// Returns calls in groups: a single call, or several that run concurrently.
pub(crate) fn steps(calls: &[Call]) -> impl Iterator<Item = &[Call]> {
    calls.chunk_by(|a, b| a.thread.is_some() && b.thread.is_some())
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread {
            Some(SECOND) => f.write_str("p| ")?,
            Some(thread) => write!(f, "{thread}| ")?,
            None => {}
        }
        let row = self.op.row();
        f.write_str(row.name)?;
        for ((_, domain), value) in row.args.iter().zip(&self.args) {
            match domain {
                Domain::Slot(kind) | Domain::New(kind) => {
                    write!(f, " {}{value}", kind.letter())?;
                }
                Domain::Word(words) => {
                    match usize::try_from(*value).ok().and_then(|n| words.get(n)) {
                        Some(word) => write!(f, " {word}")?,
                        None => write!(f, " {value:#x}")?,
                    }
                }
                Domain::Number(_) | Domain::Seed => write!(f, " {value:#x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls.iter().try_for_each(|call| writeln!(f, "{call}"))
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn argument(domain: Domain, text: &str) -> Option<u64> {
    match domain {
        Domain::Slot(kind) | Domain::New(kind) => {
            let slot = text.strip_prefix(kind.letter())?.parse().ok()?;
            (slot < kind.slots()).then_some(slot)
        }
        Domain::Word(words) => words
            .iter()
            .position(|word| *word == text)
            .map(|n| n as u64)
            .or_else(|| number(text)),
        Domain::Number(_) | Domain::Seed => number(text),
    }
}

/// A call with arguments that may be open, written `?`.
pub(crate) struct OpenCall {
    /// As in [`Call`].
    pub(crate) thread: Option<u8>,
    /// The operation.
    pub(crate) op: Op,
    /// The arguments, `None` where open.
    pub(crate) args: Vec<Option<u64>>,
}

/// Parses a line.
pub(crate) fn parse_open(line: &str) -> Result<OpenCall, String> {
    let wrong = |what: &str| format!("{line}: {what}");
    let (thread, rest) = match line.split_once('|') {
        Some((second, rest)) if second.trim() == "p" => (Some(SECOND), rest),
        Some((thread, rest)) => {
            let thread = thread.trim().parse().map_err(|_| wrong("no thread"))?;
            if !(1..=THREADS).contains(&thread) {
                return Err(wrong("no such thread"));
            }
            (Some(thread), rest)
        }
        None => (None, line),
    };
    let mut words = rest.split_whitespace();
    let name = words.next().ok_or_else(|| wrong("no call"))?;
    let op = Op::named(name).ok_or_else(|| wrong("no such call"))?;
    let row = op.row();
    let mut args = Vec::new();
    for (name, domain) in row.args {
        let word = words.next().ok_or_else(|| wrong("arguments are missing"))?;
        args.push(match word {
            "?" => None,
            _ => Some(argument(*domain, word).ok_or_else(|| wrong(&format!("{name}: {word}")))?),
        });
    }
    match words.next() {
        Some(_) => Err(wrong("too many arguments")),
        None => Ok(OpenCall { thread, op, args }),
    }
}

/// Returns the lines that are not empty or comments.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or("").trim())
        .filter(|line| !line.is_empty())
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut calls = Vec::new();
        for line in lines(text) {
            let open = parse_open(line)?;
            let args: Option<Vec<u64>> = open.args.into_iter().collect();
            calls.push(Call {
                thread: open.thread,
                op: open.op,
                args: args.ok_or_else(|| format!("{line}: an argument is open"))?,
            });
        }
        Ok(Program { calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "create i0 mdma-16M\n\
                        device d63 g0 i0\n\
                        1| v1_state d0 pre_copy\n\
                        2| pwrite d0 config 0x4 0x2 0x6\n\
                        p| set_state f0 d0 0x63\n\
                        reset d0\n";

    #[test]
    fn text_and_back() {
        let program: Program = TEXT.parse().unwrap();
        assert_eq!(program.to_string(), TEXT);
        let steps: Vec<usize> = program.steps().map(<[Call]>::len).collect();
        assert_eq!(steps, [1, 1, 3, 1]);
        let commented = format!("# why\n{}", TEXT.replace('\n', "  # so\n\n"));
        assert_eq!(commented.parse::<Program>().unwrap(), program);
    }

    #[test]
    fn what_is_no_program() {
        for text in [
            "unknown d0",
            "reset",
            "reset d0 d1",
            "reset c0",
            "reset d64",
            "reset ?",
            "5| reset d0",
            "pp| reset d0",
            "x| reset d0",
            "register d0 NOTHING 0x0",
        ] {
            assert!(text.parse::<Program>().is_err(), "{text}");
        }
    }
}
