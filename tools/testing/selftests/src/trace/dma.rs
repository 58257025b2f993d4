// SPDX-License-Identifier: GPL-2.0

//! Events of guest memory: pins, unpins and unmaps.

use std::collections::BTreeMap;

use mdma::job;

use crate::dma::keys::BASE;
use crate::dma::oracle::register;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::{run_jobs, MdmaFixture, PAGE};
use crate::harness::result::Result;
use crate::tests;
use crate::trace::watch::{Event, Watch};

tests! { "trace" needs [Mdma, Tracing]:
    each_pin_has_its_unpin [],
    an_unmap_and_what_it_unpins [],
    pins_of_a_device_that_is_closed [],
}

const SIZE: usize = 5 << 20;

/// The pinned ranges: IOVA, pages and how often.
type Ranges = BTreeMap<(i64, i64), i64>;

/// Applies the events. Returns what is pinned after them; each unpin must be of a range that was pinned.
fn pinned(mut ranges: Ranges, events: &[Event]) -> Result<Ranges> {
    for event in events {
        let change = match event.name.as_str() {
            "vfio_pin_pages" => {
                assert_eq!(event.number("ret")?, event.number("npages")?, "{event:?}");
                1
            }
            "vfio_unpin_pages" => -1,
            _ => continue,
        };
        let range = (event.number("iova")?, event.number("npages")?);
        let count = ranges.entry(range).or_default();
        *count += change;
        assert!(*count >= 0, "not pinned: {event:?}");
        if *count == 0 {
            ranges.remove(&range);
        }
    }
    Ok(ranges)
}

/// Returns the number of pages.
fn pages(ranges: &Ranges) -> u64 {
    ranges
        .iter()
        .map(|((_, pages), count)| (pages * count) as u64)
        .sum()
}

/// The events say at each time what the kernel counts.
fn each_pin_has_its_unpin(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let fixture = MdmaFixture::new(env)?;
    let uuid = fixture.uuid();
    let before = Pins::now()?;
    let held = || Ok::<_, crate::harness::result::Ended>(Pins::now()?.held() - before.held());
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    // The rings.
    let rings = pinned(Ranges::new(), &watch.take(uuid)?)?;
    assert!(!rings.is_empty(), "the rings are pinned");
    assert_eq!(pages(&rings), held()?);
    // A registration is pinned in pieces, of which none crosses 2 MiB.
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let events = watch.take(uuid)?;
    let with_key = pinned(rings.clone(), &events)?;
    assert_eq!(pages(&with_key), pages(&rings) + SIZE as u64 / PAGE);
    assert_eq!(pages(&with_key), held()?);
    for event in events.iter().filter(|e| e.name == "vfio_pin_pages") {
        let first = event.number("iova")?;
        let last = first + event.number("npages")? * PAGE as i64 - 1;
        assert_eq!(first >> 21, last >> 21, "{event:?}");
        assert_eq!(event.number("writable")?, 1, "{event:?}");
    }
    // One of them for reading only.
    let reading = register(&mut queue, BASE, PAGE, false)?;
    let events = watch.take(uuid)?;
    let writable: Result<Vec<_>> = events.iter().map(|e| e.number("writable")).collect();
    assert_eq!(writable?, [0], "{events:?}");
    let both = pinned(with_key, &events)?;
    run_jobs(
        &mut queue,
        &[job::deregister(key), job::deregister(reading)],
    )?;
    let after = pinned(both, &watch.take(uuid)?)?;
    assert_eq!(after, rings);
    assert_eq!(pages(&after), held()?);
    queue.close()?;
    let last = pinned(after, &watch.take(uuid)?)?;
    assert_eq!(last, Ranges::new());
    assert_eq!(held()?, 0);
    Ok(())
}

fn an_unmap_and_what_it_unpins(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let fixture = MdmaFixture::new(env)?;
    let uuid = fixture.uuid();
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let rings = pinned(Ranges::new(), &watch.take(uuid)?)?;
    register(&mut queue, BASE + PAGE, PAGE * 9, true)?;
    let with_key = pinned(rings.clone(), &watch.take(uuid)?)?;
    assert_eq!(pages(&with_key), pages(&rings) + 9);
    drop(buffer.unmap()?);
    let events = watch.take(uuid)?;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["vfio_dma_unmap", "vfio_unpin_pages"]);
    assert_eq!(events[0].number("iova")?, BASE as i64);
    assert_eq!(events[0].number("size")?, SIZE as i64);
    assert_eq!(pinned(with_key, &events)?, rings);
    Ok(())
}

/// The close unpins what the user has left.
fn pins_of_a_device_that_is_closed(env: &Env) -> Result {
    let watch = Watch::module(env.module.name())?;
    let fixture = MdmaFixture::new(env)?;
    let uuid = fixture.uuid().to_string();
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    register(&mut queue, BASE, SIZE as u64, true)?;
    let before = pinned(Ranges::new(), &watch.take(&uuid)?)?;
    assert!(pages(&before) > SIZE as u64 / PAGE);
    drop(queue);
    drop(_buffer);
    let _instance = fixture.close();
    let after = pinned(before, &watch.take(&uuid)?)?;
    assert_eq!(after, Ranges::new());
    Ok(())
}
