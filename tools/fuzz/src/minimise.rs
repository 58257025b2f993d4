// SPDX-License-Identifier: GPL-2.0

//! Shortens and simplifies a failing program as far as it still fails.

use crate::domain::Domain;
use crate::program::{Call, Program};

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

/// Removes calls, by halves, quarters and so on down to single ones, then threads, then merges instances, and simplifies
/// numbers.
///
/// A change stays only if the program still fails. The result for a program that fails only sometimes may be too long,
/// but it was always seen to fail.
pub(crate) fn minimise(program: &Program, target: &mut dyn Fails) -> Result<Program, String> {
    let mut best = program.clone();
    loop {
        let before = best.clone();
        remove(&mut best, target)?;
        serialise(&mut best, target)?;
        merge(&mut best, target)?;
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

/// Uses one slot in place of another, of each kind, and drops the calls that are then the same as an earlier one.
///
/// A device may be in a container whose IOMMU was set when another one joined, so none of the calls can be removed alone.
fn merge(best: &mut Program, target: &mut dyn Fails) -> Result<(), String> {
    let slots = |call: &Call| -> Vec<usize> {
        let domains = call.op.row().args.iter().enumerate();
        domains
            .filter(|(_, (_, domain))| matches!(domain, Domain::Slot(_) | Domain::New(_)))
            .map(|(arg, _)| arg)
            .collect()
    };
    let mut used: Vec<u64> = Vec::new();
    for call in &best.calls {
        used.extend(slots(call).into_iter().map(|arg| call.args[arg]));
    }
    used.sort_unstable();
    used.dedup();
    for from in used.iter().rev() {
        for to in used.iter().take_while(|to| *to < from) {
            let mut candidate = Program::default();
            for call in &best.calls {
                let mut call = call.clone();
                for arg in slots(&call) {
                    if call.args[arg] == *from {
                        call.args[arg] = *to;
                    }
                }
                if !candidate.calls.contains(&call) {
                    candidate.calls.push(call);
                }
            }
            if try_one(best, candidate, target)? {
                break;
            }
        }
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

    /// A kernel that breaks when a device is reset, whose group is in a container with an IOMMU.
    fn resets(program: &Program) -> bool {
        let (mut attached, mut with_iommu, mut devices) = (vec![], false, vec![]);
        let mut groups = vec![];
        let mut created = vec![];
        let mut broken = false;
        for call in &program.calls {
            match call.op {
                Op::Create => created.push(call.args[0]),
                Op::Group if created.contains(&call.args[1]) => groups.push(call.args[0]),
                Op::Attach if groups.contains(&call.args[0]) => attached.push(call.args[0]),
                Op::Iommu => with_iommu |= !attached.is_empty(),
                Op::Device if with_iommu && attached.contains(&call.args[1]) => {
                    devices.push(call.args[0])
                }
                Op::Reset => broken |= devices.contains(&call.args[0]),
                _ => {}
            }
        }
        broken
    }

    #[test]
    fn a_second_instance_is_merged_with_the_first() {
        let text = "create i0 mdma-16M\ncontainer c0\ngroup g0 i0\nattach g0 c0\niommu c0 0x1\n\
                    create i1 mdma-16M\ngroup g1 i1\nattach g1 c0\ndevice d1 g1 i1\nreset d1\n";
        let program: Program = text.parse().unwrap();
        let mut target = |p: &Program| Ok(resets(p));
        let least = minimise(&program, &mut target).unwrap();
        let expected = "create i0 mdma-16M\ngroup g0 i0\nattach g0 c0\niommu c0 0x0\n\
                        device d0 g0 i0\nreset d0\n";
        assert_eq!(least.to_string(), expected);
    }

    #[test]
    fn one_that_cannot_be_tried_is_an_error() {
        let program: Program = "reset d0\nreset d1".parse().unwrap();
        let mut target = |_: &Program| Err("the machine is gone".to_string());
        assert!(minimise(&program, &mut target).is_err());
    }
}
