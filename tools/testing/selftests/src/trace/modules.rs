// SPDX-License-Identifier: GPL-2.0

//! Events of two modules that are loaded at the same time.

use vfio_client::v2::State;

use crate::env::sample::Sample;
use crate::env::Env;
use crate::fixture::Fixture;
use crate::harness::result::Result;
use crate::tests;
use crate::trace::watch::{events_of, id_of, is_unknown, Watch, ALL};

tests! { "trace" needs [Mdma, Tracing]:
    each_module_has_its_own_events [],
    unloaded_while_watched [],
}

/// The module beside the one under test, and its type.
const OTHER: &str = "scratch";
const TYPE: &str = "scratch-1";

fn each_module_has_its_own_events(env: &Env) -> Result {
    let module = env.module.name();
    let _sample = Sample::load(env, OTHER)?;
    for module in [module, OTHER] {
        assert_eq!(events_of(module)?, ALL, "events of {module}");
    }
    for event in ALL {
        assert_ne!(id_of(module, event)?, id_of(OTHER, event)?, "{event}");
    }
    // Only those of the module that is watched are recorded.
    let ours = Fixture::new(env)?;
    let theirs = env.open(TYPE)?;
    let both = || -> Result {
        ours.save()?;
        theirs.save()?;
        ours.device.reset()?;
        theirs.device.reset()?;
        assert_eq!(theirs.v2()?.state()?, State::RUNNING);
        Ok(())
    };
    for (module, watched) in [(module, ours.uuid()), (OTHER, theirs.uuid())] {
        let watch = Watch::module(module)?;
        both()?;
        assert_eq!(watch.devices()?, [watched], "with {module} watched");
    }
    Ok(())
}

/// The events go with the module, also while they are on.
fn unloaded_while_watched(env: &Env) -> Result {
    assert!(is_unknown(OTHER), "{OTHER} is not loaded");
    let sample = Sample::load(env, OTHER)?;
    let watch = Watch::module(OTHER)?;
    let guest = env.open(TYPE)?;
    guest.save()?;
    assert!(!watch.take(guest.uuid())?.is_empty());
    drop(guest);
    drop(sample);
    assert!(is_unknown(OTHER), "{OTHER} was unloaded");
    // The buffer can be read without the module.
    assert_eq!(watch.devices()?, Vec::<String>::new());
    Ok(())
}
