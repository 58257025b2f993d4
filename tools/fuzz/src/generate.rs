// SPDX-License-Identifier: GPL-2.0

//! Random programs, reproducible from a seed.

use std::sync::OnceLock;

use fastrand::Rng;

use crate::grammar::{Domain, Kind, Op, ROWS};
use crate::program::{self, Call, OpenCall, Program, SECOND, THREADS};

/// A few calls that make sense in this order.
struct Snippet {
    name: &'static str,
    weight: u32,
    calls: Vec<OpenCall>,
}

/// Reads the snippets, in the order of their file.
fn snippets() -> &'static [Snippet] {
    static ALL: OnceLock<Vec<Snippet>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<Snippet> = Vec::new();
        for line in program::lines(include_str!("snippets.txt")) {
            match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                Some(head) => {
                    let (name, weight) = head.split_once(' ').expect("a name and a weight");
                    all.push(Snippet {
                        name,
                        weight: weight.parse().expect("a number"),
                        calls: Vec::new(),
                    });
                }
                None => {
                    let line = program::parse_open(line).expect("a line of a program");
                    all.last_mut().expect("a name first").calls.push(line);
                }
            }
        }
        all
    })
}

/// Returns the calls that most programs begin with: the snippet `open`.
pub(crate) fn opening() -> &'static [Call] {
    static CALLS: OnceLock<Vec<Call>> = OnceLock::new();
    CALLS.get_or_init(|| {
        let open = snippets().iter().find(|snippet| snippet.name == "open");
        let calls = &open.expect("a snippet of this name").calls;
        let closed = |call: &OpenCall| Call {
            thread: call.thread,
            op: call.op,
            args: call.args.iter().map(|a| a.expect("a value")).collect(),
        };
        calls.iter().map(closed).collect()
    })
}

fn weighted<T>(rng: &mut Rng, of: &[T], weight: impl Fn(&T) -> u32) -> usize {
    let total: u32 = of.iter().map(&weight).sum();
    let mut at = rng.u32(0..total);
    for (n, item) in of.iter().enumerate() {
        match at.checked_sub(weight(item)) {
            Some(left) => at = left,
            None => return n,
        }
    }
    unreachable!("below the total")
}

/// Which process makes most of the calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    /// The first process.
    First,
    /// Both, with the same devices.
    Both,
    /// The second process, an ordinary user.
    Second,
}

/// A generator of programs for a number of instances.
struct Author<'a> {
    rng: &'a mut Rng,
    /// Number of instances, groups and devices.
    instances: u64,
    /// Number of containers.
    containers: u64,
    users: Users,
    calls: Vec<Call>,
}

impl Author<'_> {
    /// Makes the next calls run in the main flow, in a thread, or in the second process.
    fn lane(&mut self) -> Option<u8> {
        match (self.users, self.rng.u32(0..8)) {
            (_, 0 | 1) => Some(self.rng.u8(1..=THREADS)),
            (Users::Both, 2..=4) | (Users::Second, _) => Some(SECOND),
            _ => None,
        }
    }

    fn slot(&mut self, kind: Kind) -> u64 {
        let common = match kind {
            Kind::Instance | Kind::Group | Kind::Device => self.instances,
            Kind::Container => self.containers,
            Kind::Mapping | Kind::Data | Kind::Stream => 3,
            Kind::Event => 2,
        };
        match self.rng.u32(0..24) {
            0 => self.rng.u64(0..kind.slots()),
            _ => self.rng.u64(0..common.max(1)),
        }
    }

    fn argument(&mut self, domain: Domain) -> u64 {
        match domain {
            Domain::Slot(kind) | Domain::New(kind) => self.slot(kind),
            Domain::Word(words) => match self.rng.u32(0..40) {
                0 => number(self.rng),
                _ => self.rng.u64(0..words.len() as u64),
            },
            Domain::Number(values) => match self.rng.u32(0..8) {
                0 => number(self.rng),
                1 => {
                    let value = values[self.rng.usize(0..values.len())];
                    value.wrapping_add(self.rng.u64(0..17)).wrapping_sub(8)
                }
                _ => values[self.rng.usize(0..values.len())],
            },
            Domain::Seed => self.rng.u64(0..1 << 32),
        }
    }

    /// Adds a random call.
    fn call(&mut self, thread: Option<u8>) {
        let op = ROWS[weighted(self.rng, ROWS, |row| row.weight)].op;
        let args = op.row().args.iter().map(|(_, d)| *d).collect::<Vec<_>>();
        let args = args.into_iter().map(|d| self.argument(d)).collect();
        self.calls.push(Call { thread, op, args });
    }

    /// Adds a snippet about one device. `exact` keeps every line unchanged.
    fn snippet(&mut self, which: &Snippet, instance: u64, container: u64, exact: bool) {
        let thread = match exact {
            true => (self.users == Users::Second).then_some(SECOND),
            false => self.lane(),
        };
        for OpenCall {
            thread: own,
            op,
            args,
        } in &which.calls
        {
            if !exact && self.rng.u32(0..16) == 0 {
                match self.rng.bool() {
                    true => continue,
                    false => self.call(own.or(thread)),
                }
            }
            let domains = op.row().args.iter().map(|(_, domain)| *domain);
            let args = args
                .iter()
                .zip(domains)
                .map(|(arg, domain)| match (arg, domain) {
                    (None, domain) => self.argument(domain),
                    (Some(_), domain) if !exact && self.rng.u32(0..64) == 0 => {
                        self.argument(domain)
                    }
                    (Some(slot), Domain::Slot(kind) | Domain::New(kind)) => match kind {
                        Kind::Instance | Kind::Group | Kind::Device => {
                            (slot + instance) % kind.slots()
                        }
                        Kind::Container => (slot + container) % kind.slots(),
                        _ => *slot,
                    },
                    (Some(value), _) => *value,
                });
            let args = args.collect();
            self.calls.push(Call {
                thread: own.or(thread),
                op: *op,
                args,
            });
        }
    }

    fn named(&mut self, name: &str, instance: u64, container: u64) {
        let snippet = snippets()
            .iter()
            .find(|s| s.name == name)
            .expect("a snippet of this name");
        self.snippet(snippet, instance, container, true);
    }

    /// Adds any snippet or call, about any device.
    fn something(&mut self) {
        if self.rng.u32(0..3) == 0 {
            let thread = self.lane();
            for _ in 0..self.rng.u32(1..6) {
                self.call(thread);
            }
        } else {
            let all = snippets();
            let which = weighted(self.rng, all, |s| s.weight);
            let instance = self.rng.u64(0..self.instances);
            let container = instance % self.containers;
            self.snippet(&all[which], instance, container, false);
        }
    }
}

/// Picks a number with a random bit length.
fn number(rng: &mut Rng) -> u64 {
    rng.u64(..) >> rng.u32(0..64)
}

/// Makes a random program.
pub(crate) fn generate(rng: &mut Rng) -> Program {
    let instances = match rng.u32(0..100) {
        0 => 64,
        1..=10 => rng.u64(3..9),
        11..=40 => 2,
        _ => 1,
    };
    let containers = match rng.u32(0..4) {
        0 => rng.u64(1..=instances.min(16)),
        _ => 1,
    };
    let users = match rng.u32(0..10) {
        0..=2 => Users::Both,
        3 | 4 => Users::Second,
        _ => Users::First,
    };
    let mut author = Author {
        rng,
        instances,
        containers,
        users,
        calls: Vec::new(),
    };
    for instance in 0..instances {
        let container = instance % containers;
        let name = match author.rng.u32(0..30) {
            _ if instance >= containers => "open_beside",
            0 => "open_large",
            _ => "open",
        };
        author.named(name, instance, container);
        if users == Users::Both {
            author.named("pass", instance, container);
        }
    }
    let pieces = author.rng.u64(1..=6 + instances.min(20));
    for _ in 0..pieces {
        author.something();
    }
    Program {
        calls: author.calls,
    }
}

/// Maximum length of a mutated program.
const LONGEST: usize = 400;

/// Makes a variation of a program; `other` is a third one to take calls from.
pub(crate) fn mutate(rng: &mut Rng, program: &Program, other: &Program) -> Program {
    let mut calls = program.calls.clone();
    let of_second = |call: &Call| call.thread == Some(SECOND);
    let users = match calls.iter().any(of_second) {
        true => Users::Both,
        false => Users::First,
    };
    let instances = 1 + calls.iter().filter(|c| c.op == Op::Device).count() as u64;
    for _ in 0..rng.u32(1..=4) {
        let mut author = Author {
            rng: &mut *rng,
            instances: instances.min(64),
            containers: 1,
            users,
            calls: Vec::new(),
        };
        let len = calls.len();
        let at = author.rng.usize(0..=len);
        match author.rng.u32(0..10) {
            0 if !calls.is_empty() => {
                calls.remove(at % len);
            }
            1 | 2 if !calls.is_empty() => {
                let call = &mut calls[at % len];
                let row = call.op.row();
                if !row.args.is_empty() {
                    let which = author.rng.usize(0..row.args.len());
                    call.args[which] = author.argument(row.args[which].1);
                }
            }
            3 if !calls.is_empty() => {
                let call = &mut calls[at % len];
                call.thread = match author.rng.bool() {
                    true => None,
                    false => Some(author.rng.u8(1..=SECOND)),
                };
            }
            4 if calls.len() > 1 => {
                let to = author.rng.usize(0..len);
                calls.swap(at % len, to);
            }
            5 if !other.calls.is_empty() => {
                let from = author.rng.usize(0..other.calls.len());
                let to = author.rng.usize(from..=other.calls.len());
                calls.splice(at..at, other.calls[from..to].iter().cloned());
            }
            6 => {
                author.call(None);
                calls.splice(at..at, author.calls);
            }
            _ => {
                author.something();
                calls.splice(at..at, author.calls);
            }
        }
    }
    calls.truncate(LONGEST);
    Program { calls }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_from_the_same_seed() {
        let make = |seed| generate(&mut Rng::with_seed(seed));
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn programs_are_legal_text() {
        let mut rng = Rng::with_seed(1);
        let mut last = Program::default();
        for _ in 0..300 {
            let made = generate(&mut rng);
            assert!(!made.calls.is_empty());
            let mutated = mutate(&mut rng, &made, &last);
            for program in [&made, &mutated] {
                let text = program.to_string();
                assert_eq!(text.parse::<Program>().as_ref(), Ok(program), "{text}");
            }
            last = mutated;
        }
    }

    #[test]
    fn every_call_is_made_sometimes() {
        let mut rng = Rng::with_seed(1);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2000 {
            seen.extend(generate(&mut rng).calls.iter().map(|call| call.op));
        }
        for row in ROWS {
            assert!(seen.contains(&row.op), "{}", row.name);
        }
    }
}
