// SPDX-License-Identifier: GPL-2.0

//! All test tables, in the order in which they run.

use crate::harness::Test;

/// One table per line.
#[rustfmt::skip]
const TABLES: &[&[Test]] = &[
    crate::mdev::types::TESTS,
    crate::v2::state_sequences::TESTS,
    crate::pci::device::TESTS,
    crate::pci::reset::TESTS,
    crate::pci::config::TESTS,
    crate::pci::bar::TESTS,
    crate::memory::device::TESTS,
    crate::irq::intx::TESTS,
    crate::irq::msi::TESTS,
    crate::irq::set_irqs::TESTS,
    crate::irq::state::TESTS,
    crate::worker::jobs::TESTS,
    crate::worker::faults::TESTS,
    crate::worker::lists::TESTS,
    crate::worker::stopping::TESTS,
    crate::v1::region::TESTS,
    crate::v1::states::TESTS,
    crate::v1::saving::TESTS,
    crate::v1::precopy_passes::TESTS,
    crate::v1::loading::TESTS,
    crate::stream::identity::TESTS,
    crate::stream::malformed::TESTS,
    crate::v1::random_accesses::TESTS,
    crate::stream::restart::TESTS,
    crate::stream::zero::TESTS,
    crate::stream::unchecked::TESTS,
    crate::stream::refusals::TESTS,
    crate::v2::states::TESTS,
    crate::v2::precopy::TESTS,
    crate::v2::saving::TESTS,
    crate::v2::loading::TESTS,
    crate::v2::data_file::TESTS,
    crate::v2::with_v1::TESTS,
    crate::vmm::convergence::TESTS,
    crate::vmm::libvfio_user::TESTS,
    crate::vmm::mvisor::TESTS,
    crate::dirty::type1::TESTS,
    crate::dirty::pages::TESTS,
    crate::dirty::iova::TESTS,
    crate::dirty::shared::TESTS,
    crate::history::choice::TESTS,
    crate::history::v7::TESTS,
    crate::history::v2018::TESTS,
    crate::history::dirty_pages::TESTS,
    crate::history::matrix::TESTS,
    crate::history::hostile::TESTS,
    crate::history::faults::TESTS,
    crate::tools::preflight::TESTS,
    crate::tools::send::TESTS,
    crate::trace::migration::TESTS,
    crate::trace::dma::TESTS,
    crate::trace::modules::TESTS,
    crate::inject::point::TESTS,
    crate::inject::migration::TESTS,
    crate::inject::records::TESTS,
    crate::inject::delays::TESTS,
    crate::inject::dma::TESTS,
    crate::memory::self_mapping::TESTS,
    crate::worker::racing::TESTS,
    crate::dma::key_migration::TESTS,
    crate::dma::key_unmaps::TESTS,
    crate::dma::keys::TESTS,
    crate::dma::key_scale::TESTS,
    crate::dma::oracle::TESTS,
    crate::dma::unmap_race::TESTS,
    crate::dma::peer::TESTS,
    crate::dma::rings::TESTS,
    crate::hostile::load::TESTS,
    crate::mdev::attributes::TESTS,
    crate::mdev::params::TESTS,
    crate::mdev::parts::TESTS,
    crate::mdev::lifecycle::TESTS,
    crate::mdev::next_user::TESTS,
    crate::mdev::others::TESTS,
    crate::mdev::scratch::TESTS,
    crate::mdev::script::TESTS,
    crate::mdev::serial::TESTS,
    crate::mdev::variants::TESTS,
    crate::mnvme::commands::TESTS,
    crate::mnvme::interrupts::TESTS,
    crate::mnvme::storage::TESTS,
    crate::mnvme::image::TESTS,
    crate::mnvme::migration::TESTS,
    crate::mnvme::hostile::TESTS,
    crate::hostile::setup::TESTS,
    crate::hostile::attack::TESTS,
    crate::worker::user::TESTS,
    crate::worker::limits::TESTS,
    crate::worker::suspend::TESTS,
    crate::worker::waits::TESTS,
    crate::hostile::blocking::TESTS,
    crate::fail_nth::device::TESTS,
    crate::fail_nth::migration::TESTS,
    crate::fail_nth::worker::TESTS,
    crate::fail_nth::host::TESTS,
    crate::dirty::logging::TESTS,
    crate::memory::swap::TESTS,
    crate::memory::kvm::TESTS,
];

/// Returns the tests that match one of the patterns: a substring of the name, or a requirement. No patterns: all tests.
pub(crate) fn select(patterns: &[String]) -> Vec<&'static Test> {
    let tests = TABLES.iter().copied().flatten();
    tests
        .filter(|test| patterns.is_empty() || patterns.iter().any(|p| matches(test, p)))
        .collect()
}

/// Selects those that are about a device of this mdev type. Without `all`, leaves out those that this machine or the
/// device cannot run.
pub(crate) fn select_for(patterns: &[String], mdev_type: &str, all: bool) -> Vec<&'static Test> {
    let mut tests = select(patterns);
    tests.retain(|test| test.is_about(mdev_type) && (all || test.missing(mdev_type).is_none()));
    tests
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
            assert!(names.insert(test.name), "{} is not unique", test.name);
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
    fn other_devices_have_fewer_tests() {
        let of = |mdev_type| select_for(&[], mdev_type, true).len();
        assert_eq!(of("mdma-16M"), select(&[]).len());
        assert!(of("other-1") > 100 && of("other-1") < of("mdma-16M"));
    }

    #[test]
    fn patterns() {
        let all = select(&[]).len();
        assert!(all > 0);
        assert_eq!(
            select(&["mdev.".into(), "no such".into()]).len(),
            crate::mdev::types::TESTS.len()
        );
    }
}
