// SPDX-License-Identifier: GPL-2.0

//! The parent, its types, and creating and removing instances through sysfs.

use crate::lab::{Lab, LARGE, MEDIUM, SMALL};
use crate::outcome::Outcome;
use crate::tests;

tests! { "mdev":
    types_and_their_attributes [],
}

fn types_and_their_attributes(lab: &Lab) -> Outcome {
    let types = lab.sysfs.parent("mdma")?.types()?;
    let ids: Vec<_> = types.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(ids, [SMALL, LARGE, MEDIUM]);
    for t in &types {
        assert_eq!(t.device_api()?, "vfio-pci");
    }
    Ok(())
}
