// SPDX-License-Identifier: GPL-2.0

//! All tables of tests, in the order they run.

use crate::harness::Test;

/// One line a file.
#[rustfmt::skip]
const TABLES: &[&[Test]] = &[
    crate::mdev::TESTS,
    crate::mixture::TESTS,
    crate::device::TESTS,
    crate::config::TESTS,
    crate::bar::TESTS,
    crate::device_memory::TESTS,
    crate::intx::TESTS,
    crate::irq::TESTS,
    crate::irq_refused::TESTS,
    crate::irq_state::TESTS,
    crate::engine::TESTS,
    crate::faults::TESTS,
    crate::lists::TESTS,
    crate::stopping::TESTS,
    crate::region::TESTS,
    crate::states::TESTS,
    crate::saving::TESTS,
    crate::passes::TESTS,
    crate::resuming::TESTS,
    crate::identity::TESTS,
    crate::stream::TESTS,
    crate::sequences::TESTS,
    crate::restarting::TESTS,
    crate::zeroing::TESTS,
    crate::refusals::TESTS,
    crate::v2_states::TESTS,
    crate::v2_precopy::TESTS,
    crate::v2_saving::TESTS,
    crate::v2_loading::TESTS,
    crate::v2_sharing::TESTS,
    crate::type1::TESTS,
    crate::dirty::TESTS,
    crate::iova::TESTS,
    crate::sharing::TESTS,
    crate::racing::TESTS,
    crate::oracle::TESTS,
    crate::storm::TESTS,
    crate::rings::TESTS,
    crate::load::TESTS,
    crate::params::TESTS,
    crate::lifecycle::TESTS,
    crate::next_user::TESTS,
    crate::hostile::TESTS,
    crate::attack::TESTS,
    crate::worker::TESTS,
    crate::waits::TESTS,
    crate::blocking::TESTS,
];

/// Tables of what only a kernel with fault injection can run. On others they are not there, rather than skipped.
#[rustfmt::skip]
const FAILING: &[&[Test]] = &[
    crate::failing::TESTS,
    crate::failing_migration::TESTS,
    crate::failing_worker::TESTS,
    crate::failing_host::TESTS,
];

/// Tables of what only a kernel with iommufd's bitmaps can run.
const LOGGING: &[&[Test]] = &[crate::logging::TESTS];

/// Tests of what only a machine with swap space can run.
const SWAPPING: &[&[Test]] = &[crate::swapping::TESTS];

/// Tests of what only a machine that runs guests under KVM can run.
const GUESTS: &[&[Test]] = &[crate::kvm::TESTS];

/// The tests that match one of the patterns: a part of the name, or a requirement. Without patterns all.
pub(crate) fn select(patterns: &[String]) -> Vec<&'static Test> {
    let choices = [
        (crate::fail_nth::available(), FAILING),
        (crate::logging::available(), LOGGING),
        (crate::reclaim::available(), SWAPPING),
        (crate::kvm::available(), GUESTS),
    ];
    let there = choices.iter().filter(|(available, _)| *available);
    let all = TABLES.iter().chain(there.flat_map(|(_, tables)| *tables));
    let all = all.copied().flatten();
    all.filter(|test| patterns.is_empty() || patterns.iter().any(|p| matches(test, p)))
        .collect()
}

fn matches(test: &Test, pattern: &str) -> bool {
    test.name.contains(pattern) || test.proves.contains(&pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names = std::collections::BTreeSet::new();
        for test in select(&[]) {
            assert!(names.insert(test.name), "{} twice", test.name);
            let (area, what) = test.name.split_once('.').expect(test.name);
            assert!(!area.is_empty() && !what.is_empty(), "{}", test.name);
            for p in test.proves {
                let number: u32 = p.strip_prefix('P').expect(p).parse().expect(p);
                assert!((1..=52).contains(&number), "{}: {p}", test.name);
            }
            if let Some(number) = what.strip_prefix('p').and_then(|n| n.get(..2)) {
                if let Ok(number) = number.parse::<u32>() {
                    let p = format!("P{number}");
                    assert!(test.proves.contains(&p.as_str()), "{}: {p}", test.name);
                }
            }
        }
    }

    #[test]
    fn every_requirement_is_proved() {
        let proved: std::collections::BTreeSet<_> =
            select(&[]).iter().flat_map(|test| test.proves).collect();
        for number in (1..=35).chain(49..=52) {
            let p = format!("P{number}");
            assert!(proved.contains(&p.as_str()), "no test proves {p}");
        }
    }

    #[test]
    fn patterns() {
        let all = select(&[]).len();
        assert!(all > 0);
        assert_eq!(
            select(&["mdev.".into(), "no such".into()]).len(),
            crate::mdev::TESTS.len()
        );
    }
}
