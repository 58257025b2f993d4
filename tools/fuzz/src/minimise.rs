// SPDX-License-Identifier: GPL-2.0

//! Shortens and simplifies a failing program as far as it still fails.

use crate::domain::Domain;
use crate::program::Program;

/// A test of whether a program fails.
pub(crate) trait Fails {
    /// Runs the test.
    fn fails(&mut self, program: &Program) -> Result<bool, String>;
}

impl<F: FnMut(&Program) -> Result<bool, String>> Fails for F {
    fn fails(&mut self, program: &Program) -> Result<bool, String> {
        self(program)
    }
}

/// Removes calls, by halves, quarters and so on down to single ones, then threads, then simplifies numbers.
///
/// A change stays only if the program still fails. The result for a program that fails only sometimes may be too long,
/// but it was always seen to fail.
pub(crate) fn minimise(program: &Program, target: &mut dyn Fails) -> Result<Program, String> {
    let mut best = program.clone();
    loop {
        let before = best.clone();
        remove(&mut best, target)?;
        serialise(&mut best, target)?;
        simplify(&mut best, target)?;
        if best == before {
            return Ok(best);
        }
    }
}

fn try_one(best: &mut Program, candidate: Program, target: &mut dyn Fails) -> Result<bool, String> {
    if candidate == *best || !target.fails(&candidate)? {
        return Ok(false);
    }
    *best = candidate;
    Ok(true)
}

fn remove(best: &mut Program, target: &mut dyn Fails) -> Result<(), String> {
    let mut size = best.calls.len().div_ceil(2);
    while size > 0 {
        // From the end, because no other call needs the last one.
        let mut end = best.calls.len();
        while end > 0 {
            let start = end.saturating_sub(size);
            let mut candidate = best.clone();
            candidate.calls.drain(start..end);
            try_one(best, candidate, target)?;
            end = start;
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Ok(())
}

fn serialise(best: &mut Program, target: &mut dyn Fails) -> Result<(), String> {
    let mut candidate = best.clone();
    candidate
        .calls
        .iter_mut()
        .for_each(|call| call.thread = None);
    if try_one(best, candidate, target)? {
        return Ok(());
    }
    for n in 0..best.calls.len() {
        let mut candidate = best.clone();
        candidate.calls[n].thread = None;
        try_one(best, candidate, target)?;
    }
    Ok(())
}

fn simplify(best: &mut Program, target: &mut dyn Fails) -> Result<(), String> {
    for n in 0..best.calls.len() {
        let domains = best.calls[n].op.row().args;
        for (arg, (_, domain)) in domains.iter().enumerate() {
            if !matches!(domain, Domain::Number(_) | Domain::Seed) {
                continue;
            }
            for value in [0, 1] {
                let mut candidate = best.clone();
                if candidate.calls[n].args[arg] <= value {
                    break;
                }
                candidate.calls[n].args[arg] = value;
                if try_one(best, candidate, target)? {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;
    use crate::grammar::Op;
    use crate::samples::Sample;

    /// A kernel that breaks when a device is reset after it was mapped, with any instances.
    fn breaks(program: &Program) -> bool {
        let at = |op| program.calls.iter().position(|call| call.op == op);
        let last = program.calls.iter().rposition(|call| call.op == Op::Reset);
        matches!((at(Op::Mmap), last), (Some(mapped), Some(reset)) if mapped < reset)
    }

    #[test]
    fn what_is_left_is_what_is_needed() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut found = 0;
        while found < 20 {
            let program = generate(&mut rng, Sample::ALL[found % Sample::COUNT]);
            if !breaks(&program) {
                continue;
            }
            found += 1;
            let mut tried = 0;
            let mut target = |p: &Program| {
                tried += 1;
                Ok(breaks(p))
            };
            let least = minimise(&program, &mut target).unwrap();
            let ops: Vec<_> = least.calls.iter().map(|call| call.op).collect();
            assert_eq!(ops, [Op::Mmap, Op::Reset]);
            assert!(least.calls.iter().all(|call| call.thread.is_none()));
            assert!(least.calls[0].args[3..].iter().all(|arg| *arg == 0));
            assert!(tried < 2000, "{tried}");
        }
    }

    #[test]
    fn threads_that_are_needed_stay() {
        let text = "create i0 mdma-16M\n1| reset d0\n2| reset d1\n1| reset d2\n";
        let program: Program = text.parse().unwrap();
        let beside = |program: &Program| {
            program.steps().any(|step| {
                let runs = |n| {
                    step.iter()
                        .any(|c| c.op == Op::Reset && c.thread == Some(n))
                };
                runs(1) && runs(2)
            })
        };
        let mut target = |p: &Program| Ok(beside(p));
        let least = minimise(&program, &mut target).unwrap();
        assert_eq!(least.calls.len(), 2);
        assert!(beside(&least));
    }

    #[test]
    fn one_that_cannot_be_tried_is_an_error() {
        let program: Program = "reset d0\nreset d1".parse().unwrap();
        let mut target = |_: &Program| Err("the machine is gone".to_string());
        assert!(minimise(&program, &mut target).is_err());
    }
}
