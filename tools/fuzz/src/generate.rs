// SPDX-License-Identifier: GPL-2.0

//! Random programs, reproducible from a seed.

use std::sync::OnceLock;

use fastrand::Rng;

use crate::domain::{Domain, Kind};
use crate::grammar::{Op, Row, ROWS};
use crate::program::{self, Call, OpenCall, Program, SECOND, THREADS};
use crate::samples::{self, Sample};

/// A few calls that make sense in this order.
struct Snippet {
    name: &'static str,
    weight: u32,
    /// The device that it is about; `None` for any.
    sample: Option<Sample>,
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
                    let mut words = head.split(' ');
                    let name = words.next().expect("a name");
                    let weight = words.next().expect("a weight");
                    let sample = words.next();
                    all.push(Snippet {
                        name,
                        weight: weight.parse().expect("a number"),
                        sample: sample.map(|name| Sample::named(name).expect("a device")),
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

/// Returns the snippet of this name for a device.
fn named(name: &str, sample: Sample) -> &'static Snippet {
    let fits = |snippet: &&Snippet| {
        snippet.name == name && snippet.sample.is_none_or(|other| other == sample)
    };
    let found = snippets().iter().find(fits);
    found.unwrap_or_else(|| panic!("{}: no snippet {name}", sample.name()))
}

/// Returns the calls that most programs about a device begin with: the snippet `open`.
pub(crate) fn opening(sample: Sample) -> &'static [Call] {
    static CALLS: OnceLock<[Vec<Call>; Sample::COUNT]> = OnceLock::new();
    let all = CALLS.get_or_init(|| {
        Sample::ALL.map(|sample| {
            let closed = |call: &OpenCall| Call {
                thread: call.thread,
                op: call.op,
                args: call.args.iter().map(|a| a.expect("a value")).collect(),
            };
            named("open", sample).calls.iter().map(closed).collect()
        })
    });
    &all[sample as usize]
}

/// Returns the device of each instance that a program may have open.
fn instances(program: &Program) -> Vec<Sample> {
    let opened = program.calls.iter().filter(|call| call.op == Op::Device);
    let mut found = vec![first(program); (1 + opened.count()).min(64)];
    for call in program.calls.iter().filter(|call| call.op == Op::Create) {
        let sample = Sample::of_type(samples::type_named(call.args[1]));
        if let (Some(place), Some(sample)) = (found.get_mut(call.args[0] as usize), sample) {
            *place = sample;
        }
    }
    found
}

/// Returns the device that a program begins with.
pub(crate) fn first(program: &Program) -> Sample {
    let mut creations = program.calls.iter().filter(|call| call.op == Op::Create);
    let id = creations
        .next()
        .map(|call| samples::type_named(call.args[1]));
    id.and_then(Sample::of_type).unwrap_or(Sample::Mdma)
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

/// A generator of programs for some instances.
struct Author<'a> {
    rng: &'a mut Rng,
    /// The device of each instance.
    instances: Vec<Sample>,
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
            Kind::Instance | Kind::Group | Kind::Device => self.instances.len() as u64,
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

    /// Adds a random call that one of the devices, or this one, has.
    fn call(&mut self, thread: Option<u8>, of: Option<u64>) {
        let instances = match of {
            Some(instance) => &self.instances[instance as usize..=instance as usize],
            None => &self.instances[..],
        };
        let weight = |row: &Row| match row.sample {
            Some(sample) if !instances.contains(&sample) => 0,
            Some(_) => row.weight,
            // A call in place of another device's is about this device.
            None if of.is_some() => 0,
            None => row.weight,
        };
        let op = ROWS[weighted(self.rng, ROWS, weight)].op;
        let args = op.row().args.iter();
        let args = args.map(|(_, domain)| match (domain, of) {
            (Domain::Slot(Kind::Instance | Kind::Device), Some(instance)) => instance,
            (Domain::Slot(kind @ (Kind::Instance | Kind::Device)), None) => {
                self.slot_of(*kind, op.row().sample)
            }
            _ => self.argument(*domain),
        });
        let args = args.collect();
        self.calls.push(Call { thread, op, args });
    }

    /// Picks a slot, usually one with this device.
    fn slot_of(&mut self, kind: Kind, sample: Option<Sample>) -> u64 {
        let fits = |slot: u64| match sample {
            Some(sample) => self.instances.get(slot as usize) == Some(&sample),
            None => true,
        };
        let fitting: Vec<u64> = (0..self.instances.len() as u64)
            .filter(|n| fits(*n))
            .collect();
        match self.rng.u32(0..24) {
            0 => self.slot(kind),
            _ if fitting.is_empty() => self.slot(kind),
            _ => fitting[self.rng.usize(0..fitting.len())],
        }
    }

    /// Adds a snippet about one device. A call of another device becomes a random one of this device. `exact` keeps
    /// every line unchanged.
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
                    false => self.call(own.or(thread), None),
                }
            }
            let sample = self.instances[instance as usize];
            if op.row().sample.is_some_and(|other| other != sample) {
                self.call(own.or(thread), Some(instance));
                continue;
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
        let snippet = named(name, self.instances[instance as usize]);
        self.snippet(snippet, instance, container, true);
    }

    /// Adds any snippet or call, about any device.
    fn something(&mut self) {
        if self.rng.u32(0..3) == 0 {
            let thread = self.lane();
            for _ in 0..self.rng.u32(1..6) {
                self.call(thread, None);
            }
        } else {
            let instance = self.rng.usize(0..self.instances.len());
            let sample = self.instances[instance];
            let all = snippets();
            let which = weighted(self.rng, all, |s| match s.sample {
                Some(other) if other != sample => 0,
                _ => s.weight,
            });
            let instance = instance as u64;
            let container = instance % self.containers;
            self.snippet(&all[which], instance, container, false);
        }
    }
}

/// Picks a number with a random bit length.
fn number(rng: &mut Rng) -> u64 {
    rng.u64(..) >> rng.u32(0..64)
}

/// Makes a random program that begins with a device.
pub(crate) fn generate(rng: &mut Rng, first: Sample) -> Program {
    let instances: u64 = match rng.u32(0..100) {
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
    let mut samples = vec![first];
    for _ in 1..instances {
        samples.push(match rng.bool() {
            true => first,
            false => Sample::ALL[rng.usize(0..Sample::COUNT)],
        });
    }
    let mut author = Author {
        rng,
        instances: samples,
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
        if author.rng.u32(0..3) > 0 {
            author.named("start", instance, container);
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
    let instances = instances(program);
    for _ in 0..rng.u32(1..=4) {
        let mut author = Author {
            rng: &mut *rng,
            instances: instances.clone(),
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
                author.call(None, None);
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
        let make = |seed| generate(&mut Rng::with_seed(seed), Sample::Mnvme);
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn programs_are_legal_text() {
        let mut rng = Rng::with_seed(1);
        let mut last = Program::default();
        for sample in Sample::ALL.into_iter().cycle().take(300) {
            let made = generate(&mut rng, sample);
            assert_eq!(first(&made), sample);
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
        for sample in Sample::ALL.into_iter().cycle().take(2000) {
            seen.extend(generate(&mut rng, sample).calls.iter().map(|call| call.op));
        }
        for row in ROWS {
            assert!(seen.contains(&row.op), "{}", row.name);
        }
    }

    #[test]
    fn every_device_has_openings() {
        for sample in Sample::ALL {
            for name in ["open", "open_beside", "open_large", "start", "pass"] {
                assert!(!named(name, sample).calls.is_empty());
            }
            let program = Program {
                calls: opening(sample).to_vec(),
            };
            assert_eq!(first(&program), sample);
        }
    }

    #[test]
    fn calls_are_those_of_the_device() {
        let mut rng = Rng::with_seed(3);
        let (mut fitting, mut others) = (0, 0);
        for sample in Sample::ALL.into_iter().cycle().take(600) {
            let program = generate(&mut rng, sample);
            let instances = instances(&program);
            for call in &program.calls {
                let row = call.op.row();
                let at = row
                    .args
                    .iter()
                    .position(|arg| matches!(arg.1, Domain::Slot(Kind::Device)));
                if let (Some(sample), Some(at)) = (row.sample, at) {
                    match instances.get(call.args[at] as usize) == Some(&sample) {
                        true => fitting += 1,
                        false => others += 1,
                    }
                }
            }
        }
        assert!(fitting > 1000, "{fitting}");
        assert!(others > 0 && others < fitting / 5, "{others} of {fitting}");
    }

    #[test]
    fn snippets_are_programs() {
        let mut rng = Rng::with_seed(4);
        for (n, snippet) in snippets().iter().enumerate() {
            assert!(!snippet.calls.is_empty(), "{}", snippet.name);
            let sample = snippet.sample.unwrap_or(Sample::ALL[n % Sample::COUNT]);
            for exact in [true, false] {
                let mut author = Author {
                    rng: &mut rng,
                    instances: vec![sample; 3],
                    containers: 2,
                    users: Users::Both,
                    calls: Vec::new(),
                };
                // A snippet that any device can have may contain calls of one.
                let exact = exact && snippet.sample.is_some();
                author.snippet(snippet, 2, 1, exact);
                let program = Program {
                    calls: author.calls,
                };
                let text = program.to_string();
                assert_eq!(text.parse::<Program>().as_ref(), Ok(&program), "{text}");
                if exact {
                    let ops = program.calls.iter().map(|call| call.op);
                    assert!(ops.eq(snippet.calls.iter().map(|call| call.op)));
                }
            }
        }
    }
}
