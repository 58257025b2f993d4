// SPDX-License-Identifier: GPL-2.0

//! Identity: streams that a destination refuses before it changes the device (P49).

use crate::device::{identity, sample, Device, STATE_MAX};
use migration::load::LoadSession;
use migration::stream::{device_type, Error, Identity, IdentityText, MAGIC, VERSION};

#[test]
fn p49_the_bytes_of_an_identity() {
    let bytes = identity(40).encode();
    assert_eq!(bytes[0..8], MAGIC);
    assert_eq!(bytes[8..12], VERSION.to_le_bytes());
    assert_eq!(bytes[12..16], [0; 4]);
    assert_eq!(&bytes[16..32], b"test\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bytes[32..36], 3u32.to_le_bytes());
    assert_eq!(bytes[36..40], 5u32.to_le_bytes());
    assert_eq!(bytes[40..48], (40 * 64u64).to_le_bytes());
    assert_eq!(bytes[48..52], 64u32.to_le_bytes());
    assert_eq!(bytes[52..56], 256u32.to_le_bytes());
    assert_eq!(Identity::decode(&bytes, 56), Ok(identity(40)));
}

#[test]
fn p49_each_field_is_compared_and_named() {
    let here = identity(40);
    type Change = fn(&mut Identity);
    let cases: [(&str, Change); 6] = [
        ("device_type", |i| i.device_type = device_type("other")),
        ("device_version", |i| i.device_version += 1),
        ("features", |i| i.features ^= 0x10),
        ("memory_size", |i| i.memory_size += 64),
        ("page_size", |i| i.page_size /= 2),
        ("state_size_max", |i| i.state_size_max += 1),
    ];
    for (field, change) in cases {
        let mut there = here;
        change(&mut there);
        let source = Device::with(there);
        source.write(0, 1);
        let stream = source.save(4096).concat();

        let target = Device::with(here);
        let error = target.load(&stream).unwrap_err();
        assert_eq!(error.errno(), 22, "{field}");
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(target.copied.get(), 0);
        assert!(target.pages.borrow().is_empty(), "{field}");
        // An equal device accepts the stream.
        Device::with(there).load(&stream).unwrap();
    }
}

#[test]
fn p49_declared_older_versions_are_accepted() {
    let here = identity(40);
    let older = |version, state_size_max| Identity {
        device_version: version,
        state_size_max,
        ..here
    };
    // The version, the size of the state, and the oldest version that is accepted.
    for (version, size, oldest, accepted) in [
        (3, here.state_size_max, 1, true),
        (2, here.state_size_max, 1, true),
        (1, 8, 1, true),
        (1, 8, 2, false),
        (2, here.state_size_max + 1, 1, false),
        (3, 8, 1, false),
        (4, here.state_size_max, 1, false),
        (0, 8, 1, false),
    ] {
        let there = older(version, size);
        assert_eq!(
            here.accept_since(oldest, &there).is_ok(),
            accepted,
            "{version} {size}"
        );

        let source = Device::with(there);
        source.write(0, 1);
        *source.state.borrow_mut() = vec![7; 8];
        let stream = source.save(4096).concat();
        let target = Device::with(here);
        target.oldest.set(oldest);
        assert_eq!(target.load(&stream).is_ok(), accepted, "{version} {size}");
        if accepted {
            assert_eq!(target.version.get(), version);
        }
    }
}

#[test]
fn p49_the_log_line_says_what_was_expected_and_what_found() {
    let mut there = identity(40);
    there.device_type = device_type("o\x07ther");
    let error = identity(40).accept(&there).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stream is of device_type \"o\\x07ther\", this device is \"test\""
    );
    let mut there = identity(40);
    there.memory_size = 0x1000;
    let error = identity(40).accept(&there).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory_size is 0x1000 in the stream and 0xa00 here"
    );
}

#[test]
fn p51_another_version_is_told_apart_before_its_layout() {
    let mut bytes = identity(40).encode().to_vec();
    bytes[8] = 2;
    bytes.extend([1, 2, 3]);
    assert_eq!(
        Identity::decode(&bytes, 59),
        Err(Error::Version { found: 2 })
    );
    assert_eq!(Error::Version { found: 2 }.errno(), 93);
    // A shorter record of another version is also named as such, if it contains the version.
    assert_eq!(
        Identity::decode(&bytes[..12], 12),
        Err(Error::Version { found: 2 })
    );
    assert_eq!(Identity::decode(&bytes[..11], 11), Err(Error::Foreign));
    // This version has a fixed length and a reserved field that must be 0.
    bytes[8] = 1;
    assert!(matches!(
        Identity::decode(&bytes, 59),
        Err(Error::Length { found: 59, .. })
    ));
    bytes[12] = 1;
    assert!(matches!(
        Identity::decode(&bytes[..56], 56),
        Err(Error::Reserved { found: 1, .. })
    ));
}

#[test]
fn p26_foreign_bytes_are_no_stream() {
    let target = sample();
    for foreign in [&[0; 200][..], &[0xff; 200], b"QEVM".repeat(50).as_slice()] {
        let target = Device::with(target.identity);
        assert_eq!(target.load(foreign), Err(Error::Foreign));
    }
}

#[test]
fn p49_identities_no_device_has_are_refused() {
    let mut odd = identity(40);
    odd.page_size = 48;
    assert_eq!(odd.validate().unwrap_err().errno(), 22);
    odd.page_size = 0;
    assert!(odd.validate().is_err());
    assert_eq!(odd.pages(), 0);
    let mut odd = identity(40);
    odd.memory_size += 1;
    assert!(odd.validate().is_err());
    assert_eq!(identity(40).validate(), Ok(()));
}

#[test]
fn p49_device_types_are_padded_or_cut() {
    assert_eq!(device_type(""), [0; 16]);
    assert_eq!(&device_type("0123456789abcdefgh"), b"0123456789abcdef");
}

#[test]
fn p49_the_text_of_an_identity_is_parsed() {
    let text = IdentityText {
        identity: identity(40),
        oldest_version: 2,
    };
    let line = text.to_string();
    assert_eq!(
        line,
        "stream_version=1 device_type=test device_version=3 oldest_version=2 features=0x5 \
         memory_size=2560 page_size=64 state_size_max=256"
    );
    assert_eq!(IdentityText::parse(&line), Ok(text));
    // In any order, and with the newline of a file.
    let mut fields: Vec<_> = line.split(' ').collect();
    fields.reverse();
    assert_eq!(IdentityText::parse(&(fields.join("  ") + "\n")), Ok(text));
    let longest = Identity {
        device_type: *b"0123456789abcdef",
        device_version: u32::MAX,
        features: u32::MAX,
        memory_size: u64::MAX,
        page_size: u32::MAX,
        state_size_max: u32::MAX,
    };
    let text = IdentityText {
        identity: longest,
        oldest_version: u32::MAX,
    };
    assert_eq!(IdentityText::parse(&text.to_string()), Ok(text));
}

#[test]
fn p49_malformed_texts_of_an_identity_are_refused() {
    let text = IdentityText {
        identity: identity(40),
        oldest_version: 2,
    };
    let line = text.to_string();
    for field in line.split(' ') {
        let (name, value) = field.split_once('=').unwrap();
        let others: Vec<_> = line.split(' ').filter(|other| *other != field).collect();
        let others = others.join(" ");
        for wrong in [
            String::new(),
            format!("{field} {field}"),
            format!("{name}="),
            format!("{name}=0x1ffffffffffffffff"),
            format!("{name}=+{value}0123456789abcdef"),
            format!("{name} {value}"),
            format!("x{name}={value}"),
        ] {
            let error = IdentityText::parse(&format!("{others} {wrong}")).unwrap_err();
            assert!(matches!(error, Error::Text { .. }), "{wrong}: {error}");
            assert_eq!(error.errno(), 22);
        }
    }
    for wrong in ["=", "==", "\0", "a", "=1 =1"] {
        assert!(IdentityText::parse(wrong).is_err(), "{wrong:?}");
    }
    let other = line.replace("stream_version=1", "stream_version=2");
    assert_eq!(
        IdentityText::parse(&other),
        Err(Error::Version { found: 2 })
    );
}

#[test]
fn p49_a_session_wants_room_for_the_state() {
    let error = LoadSession::new(identity(1), vec![0; STATE_MAX - 1]).unwrap_err();
    assert_eq!(error.errno(), 28);
    let mut odd = identity(1);
    odd.page_size = 3;
    assert!(LoadSession::new(odd, vec![0; STATE_MAX]).is_err());
}
