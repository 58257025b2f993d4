// SPDX-License-Identifier: GPL-2.0

//! The serial port `mserial`: an I/O BAR, timers, the host end, and a device that is no bus master.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use migration::stream::Kind;
use records::{u64_at, Stream};
use vfio_client::pci::offset;
use vfio_client::{v2, Action, EventFd};

use crate::env::sample::Sample;
use crate::env::{Env, Guest};
use crate::harness::check::{expect_signal, expect_silence, wait_for};
use crate::harness::result::Result;
use crate::irq::msi::INTX;
use crate::mdev::serial_port::{
    Host, Port, COMMAND_IO, COMMAND_MASTER, DATA, DLAB, EIGHT, EMPTY, FAST, FCR, IDLE, IER, IIR,
    LCR, LOOP, LSR, MCR, MSR, OVERRUN, READY, RTS, SCR,
};
use crate::{assert_errno, tests};

tests! { "serial" needs [Mdma]:
    the_bar_is_sized_and_moved_as_io [],
    io_enable_gates_registers [],
    it_is_no_bus_master [],
    the_registers_of_a_16550a [],
    bytes_take_their_time [],
    bytes_go_to_the_host_in_order [],
    bytes_come_from_the_host_in_order [],
    a_full_host_end_holds_the_line [],
    loopback_and_overrun [],
    the_host_never_overruns [],
    received_bytes_interrupt [],
    modem_lines_follow_the_host [],
    the_host_end_has_one_user [],
    removal_ends_a_read_of_the_host [],
    migrates_by_v1_and_v2 [],
    a_stop_keeps_the_time_left [],
    a_kick_shortens_no_timer [],
    no_byte_is_taken_from_a_stopped_device [],
    a_close_discards_input [],
    an_illegal_state_is_refused [],
}

/// Returns the state of the device in a stream.
fn state(stream: &[u8]) -> Vec<u8> {
    let stream = Stream::parse(stream).expect("a stream");
    let records = stream.records.iter();
    records
        .filter(|record| record.kind() == Some(Kind::Device))
        .flat_map(|record| record.payload.clone())
        .collect()
}

/// Returns distinct bytes.
fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn the_bar_is_sized_and_moved_as_io(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let config = port.guest.device.config()?;
    let config = config.region();
    assert_eq!(config.read_u32(offset::BAR0)?, 1, "an I/O BAR");
    config.write_u32(offset::BAR0, !0)?;
    assert_eq!(config.read_u32(offset::BAR0)?, !7 | 1, "8 bytes of I/O");
    config.write_u32(offset::BAR0, 0xc00f)?;
    assert_eq!(config.read_u32(offset::BAR0)?, 0xc009);
    config.write_u16(offset::BAR0, 0xd010)?;
    assert_eq!(config.read_u32(offset::BAR0)?, 0xd011);
    for bar in 1..6 {
        config.write_u32(offset::BAR0 + 4 * bar, !0)?;
        assert_eq!(config.read_u32(offset::BAR0 + 4 * bar)?, 0, "BAR {bar}");
    }
    assert_eq!(port.bar.info().size, 8);
    assert_eq!(config.read_u32(0x8)? >> 8, 0x07_0002, "a 16550 serial port");
    Ok(())
}

fn io_enable_gates_registers(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let config = port.guest.device.config()?;
    port.put(SCR, 0x55)?;
    // Memory enable is another bit.
    for command in [0, 2] {
        config.set_command(command)?;
        assert_eq!(port.get(SCR)?, 0xff, "command {command:#x}");
        port.put(SCR, 0xaa)?;
    }
    config.set_command(COMMAND_IO)?;
    assert_eq!(port.get(SCR)?, 0x55);
    Ok(())
}

fn it_is_no_bus_master(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let config = port.guest.device.config()?;
    config.set_command(COMMAND_IO | COMMAND_MASTER)?;
    assert_eq!(config.command()?, COMMAND_IO);
    // It works without, also while the guest has I/O switched off.
    port.set_up(FAST)?;
    let mut host = port.host()?;
    port.send(b"x")?;
    config.set_command(0)?;
    host.expect(b"x")
}

fn the_registers_of_a_16550a(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let power_on = [0, 0, 1, 0, 0, EMPTY | IDLE, 0, 0];
    for (at, expected) in (0..).zip(power_on) {
        assert_eq!(port.get(at)?, expected, "register {at} at power-on");
    }
    for (at, writable) in [(IER, 0x0f), (LCR, 0xff), (MCR, 0x1f), (SCR, 0xff)] {
        port.put(at, 0xff)?;
        assert_eq!(port.get(at)?, writable, "register {at}");
        port.put(at, 0)?;
    }
    port.put(FCR, 1)?;
    assert_eq!(port.get(IIR)? & 0xc1, 0xc1, "FIFOs");
    port.put(FCR, 0)?;
    assert_eq!(port.get(IIR)? & 0xc1, 1, "no FIFOs");
    port.put(LCR, DLAB)?;
    assert_eq!([port.get(0)?, port.get(1)?], [12, 0], "9600 baud");
    // Only single bytes reach a register.
    assert_eq!(port.bar.read_u16(SCR - 1)?, 0xffff);
    port.guest.device.reset()?;
    assert_eq!(port.get(LCR)?, 0);
    Ok(())
}

fn bytes_take_their_time(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    // 10 bits at 600 baud.
    port.set_up(192)?;
    let begin = Instant::now();
    port.send(&text(16))?;
    assert!(!port.has(IDLE)?);
    wait_for("the line to be idle", || port.has(IDLE))?;
    let took = begin.elapsed();
    let least = Duration::from_micros(16 * 10 * 1_000_000 / 600);
    assert!(took >= least, "16 bytes took {took:?}, not {least:?}");
    Ok(())
}

fn bytes_go_to_the_host_in_order(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    // Nobody hears these.
    port.send(b"lost")?;
    wait_for("the line to be idle", || port.has(IDLE))?;
    let mut host = port.host()?;
    port.send(&text(500))?;
    host.expect(&text(500))?;
    // 7 data bits.
    port.put(LCR, 0x02)?;
    port.send(&[0xff])?;
    host.expect(&[0x7f])
}

fn bytes_come_from_the_host_in_order(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    // More than input and FIFO hold.
    let sender = thread::spawn(move || host.send(&text(1000)).map(|()| host));
    for expected in text(1000) {
        assert_eq!(port.receive()?, expected);
    }
    let mut host = sender.join().expect("no panic")?;
    assert!(!port.has(READY)?);
    // Without RTS the host waits.
    port.put(MCR, 0)?;
    assert_errno!(host.0.write(b"y"), EAGAIN);
    port.put(MCR, RTS)?;
    host.send(b"y")?;
    assert_eq!(port.receive()?, b'y');
    Ok(())
}

fn a_full_host_end_holds_the_line(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    // The host end holds 4096 bytes, the transmitter 17.
    port.send(&text(4096))?;
    wait_for("the line to be idle", || port.has(IDLE))?;
    port.send(b"end")?;
    thread::sleep(Duration::from_millis(20));
    assert!(!port.has(IDLE)?);
    let mut expected = text(4096);
    expected.extend(b"end");
    host.expect(&expected)?;
    wait_for("the line to be idle", || port.has(IDLE))
}

/// Keeps the FIFO all but full, and accesses registers all the time: some of these accesses come between the end of a
/// byte's time and the unit of work that takes the byte.
fn the_host_never_overruns(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    let mut rng = fastrand::Rng::with_seed(16);
    let sent: Vec<u8> = (0..2000).map(|_| rng.u8(..)).collect();
    let ended = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    if port.get(SCR).is_err() {
                        break;
                    }
                }
            });
        }
        let found = take_slowly(&port, &mut host, &sent);
        ended.store(true, Relaxed);
        found
    })?;
    assert!(found == sent, "lost a byte after {} bytes", found.len());
    Ok(())
}

/// Sends bytes from the host, and takes them at the port, slower than they come. Ends at an overrun.
fn take_slowly(port: &Port, host: &mut Host, sent: &[u8]) -> Result<Vec<u8>> {
    let (mut left, mut found) = (sent, Vec::new());
    while found.len() < sent.len() {
        match host.0.write(left) {
            Ok(count) => left = &left[count..],
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = false;
        for _ in 0..8 {
            let lsr = port.get(LSR)?;
            if lsr & OVERRUN != 0 {
                return Ok(found);
            }
            ready |= lsr & READY != 0;
        }
        if ready {
            found.push(port.get(DATA)?);
        }
    }
    Ok(found)
}

fn loopback_and_overrun(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    port.put(MCR, LOOP | 0x0f)?;
    assert_eq!(port.get(MSR)? & 0xf0, 0xf0);
    port.put(MCR, LOOP | 0x01)?;
    assert_eq!(port.get(MSR)?, 0x20 | 0x0d, "DSR stays, the others go");
    for expected in text(40) {
        port.send(&[expected])?;
        assert_eq!(port.receive()?, expected);
    }
    assert!(!port.has(OVERRUN)?);
    // Each read of LSR clears the overrun.
    let mut seen = 0;
    for byte in text(17) {
        port.put(DATA, byte)?;
    }
    wait_for("the line to be idle", || {
        let status = port.get(LSR)?;
        seen |= status;
        Ok(status & IDLE != 0)
    })?;
    assert_eq!(seen & OVERRUN, OVERRUN, "17 bytes do not fit");
    assert!(!port.has(OVERRUN)?);
    for expected in text(16) {
        assert_eq!(port.receive()?, expected);
    }
    assert_errno!(host.0.read(&mut [0]), EAGAIN);
    Ok(())
}

fn received_bytes_interrupt(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let event = EventFd::new()?;
    let irq = port.guest.device.irq(INTX)?;
    irq.set_eventfds(0, &[Some(&event)])?;
    port.set_up(FAST)?;
    // 14 bytes interrupt, or fewer that wait.
    port.put(FCR, 0xc1)?;
    let mut host = port.host()?;
    port.put(IER, 1)?;
    expect_silence(&event, "nothing has arrived");
    host.send(b"abc")?;
    assert_eq!(expect_signal(&event, "bytes that wait"), 1);
    wait_for("bytes that wait", || Ok(port.get(IIR)? == 0xcc))?;
    for expected in b"abc" {
        assert_eq!(port.receive()?, *expected);
    }
    assert_eq!(port.get(IIR)?, 0xc1);
    irq.set_none(Action::Unmask, 0, 1)?;
    host.send(&text(14))?;
    expect_signal(&event, "14 bytes");
    wait_for("14 bytes", || Ok(port.get(IIR)? == 0xc4))?;
    // The transmitter has a lower priority, and interrupts once.
    port.put(IER, 3)?;
    assert_eq!(port.get(IIR)?, 0xc4);
    port.put(IER, 2)?;
    assert_eq!(port.get(IIR)?, 0xc2);
    assert_eq!(port.get(IIR)?, 0xc1);
    port.put(IER, 0)?;
    port.put(IER, 2)?;
    assert_eq!(port.get(IIR)?, 0xc2, "enabled again");
    Ok(())
}

fn modem_lines_follow_the_host(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    assert_eq!(port.get(MSR)?, 0);
    port.put(IER, 8)?;
    let host = port.host()?;
    wait_for("an interrupt for the modem lines", || {
        Ok(port.get(IIR)? == 0)
    })?;
    assert_eq!(port.get(MSR)?, 0xbb, "CTS, DSR and DCD went on");
    assert_eq!(port.get(MSR)?, 0xb0);
    drop(host);
    wait_for("an interrupt for the modem lines", || {
        Ok(port.get(IIR)? == 0)
    })?;
    assert_eq!(port.get(MSR)?, 0x0b, "they went off");
    Ok(())
}

fn the_host_end_has_one_user(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let host = port.host()?;
    assert_errno!(port.host().map(drop), EBUSY);
    drop(host);
    port.host()?;
    Ok(())
}

fn removal_ends_a_read_of_the_host(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let mut file = port.open_host(0)?;
    let reader = thread::spawn(move || (file.0.read(&mut [0]), file));
    thread::sleep(Duration::from_millis(20));
    let Port { bar, guest } = port;
    drop(bar);
    let Guest {
        device,
        container,
        instance,
    } = guest;
    drop((device, container));
    instance.remove()?;
    let (read, mut file) = reader.join().expect("no panic");
    assert_errno!(read, EIO);
    assert_errno!(file.0.write(b"x"), EIO);
    Ok(())
}

fn migrates_by_v1_and_v2(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    for protocol in ["v1", "v2"] {
        let source = Port::new(env)?;
        source.set_up(FAST)?;
        let mut host = source.host()?;
        // Received bytes, and more of them than the FIFO holds; bytes to send; registers.
        source.put(FCR, 0xc1)?;
        source.put(IER, 1)?;
        host.send(&text(100))?;
        wait_for("14 bytes", || Ok(source.get(IIR)? == 0xc4))?;
        source.put(SCR, 0x5a)?;
        source.put(LCR, EIGHT | DLAB)?;
        source.put(IER, 0x10)?;
        source.put(LCR, EIGHT)?;
        source.put(IER, 0)?;
        source.send(&text(17)[..16])?;
        let stream = source.guest.save()?;

        let target = Port::new(env)?;
        let mut other = target.host()?;
        target.load(&stream, protocol, true)?;
        assert_eq!(target.get(SCR)?, 0x5a, "{protocol}");
        target.put(LCR, EIGHT | DLAB)?;
        assert_eq!(target.get(IER)?, 0x10, "{protocol}: divisor");
        // Faster from the next byte on.
        target.put(IER, 0)?;
        target.put(LCR, EIGHT)?;
        for expected in text(100) {
            assert_eq!(target.receive()?, expected, "{protocol}");
        }
        let mut sent: Vec<u8> = Vec::new();
        let mut bytes = [0; 64];
        if let Ok(count) = host.0.read(&mut bytes) {
            sent.extend(&bytes[..count]);
        }
        other.expect(&text(16)[sent.len()..])?;
        assert_eq!(sent, text(16)[..sent.len()], "{protocol}");
    }
    Ok(())
}

fn a_stop_keeps_the_time_left(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    // A byte takes 5.7 s.
    port.set_up(u16::MAX)?;
    port.put(DATA, b'z')?;
    let stream = port.guest.save()?;
    let left = Duration::from_nanos(u64_at(&state(&stream), 0));
    let all = Duration::from_nanos(10 * 65535 * 1_000_000_000 / 115_200);
    assert!(!left.is_zero() && left <= all, "{left:?} of {all:?} left");
    for protocol in ["v1", "v2"] {
        let target = Port::new(env)?;
        target.load(&stream, protocol, false)?;
        thread::sleep(Duration::from_millis(50));
        let again = target.guest.save()?;
        assert_eq!(state(&again), state(&stream), "{protocol}");
        // It runs for a moment: some of the time passes.
        target.guest.v2()?.set_state(v2::State::RUNNING)?;
        thread::sleep(Duration::from_millis(50));
        let later = u64_at(&state(&target.guest.save()?), 0);
        let passed = left.saturating_sub(Duration::from_nanos(later));
        assert!(passed >= Duration::from_millis(50), "{passed:?} passed");
    }
    // The source goes on as well, and sends the byte after the time that was left.
    let begin = Instant::now();
    port.guest.v2()?.set_state(v2::State::RUNNING)?;
    wait_for("the line to be idle", || port.has(IDLE))?;
    let took = begin.elapsed();
    assert!(took >= left, "{took:?}, {left:?} were left");
    Ok(())
}

fn a_kick_shortens_no_timer(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    // A byte takes 0.57 s.
    port.set_up(6554)?;
    let begin = Instant::now();
    port.put(DATA, b'z')?;
    let least = Duration::from_nanos(10 * 6554 * 1_000_000_000 / 115_200);
    // Each opening and each close of the host end schedules work, and so does each stop.
    wait_for("the line to be idle", || {
        drop(port.host()?);
        port.guest.v2()?.set_state(v2::State::STOP)?;
        port.guest.v2()?.set_state(v2::State::RUNNING)?;
        port.has(IDLE)
    })?;
    let took = begin.elapsed();
    assert!(took >= least, "a byte took {took:?}, not {least:?}");
    Ok(())
}

fn no_byte_is_taken_from_a_stopped_device(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    let stream = port.guest.save()?;
    assert_errno!(host.0.write(b"x"), EAGAIN);
    drop(host);
    // A write that waits reaches the device when it runs again.
    let mut host = port.open_host(0)?;
    let writer = thread::spawn(move || host.0.write_all(b"x").map(|()| host));
    thread::sleep(Duration::from_millis(20));
    assert!(!writer.is_finished());
    port.guest.v2()?.set_state(v2::State::STOP)?;
    assert_eq!(state(&port.guest.save()?), state(&stream));
    port.guest.v2()?.set_state(v2::State::RUNNING)?;
    let _host = writer.join().expect("no panic")?;
    assert_eq!(port.receive()?, b'x');
    Ok(())
}

fn a_close_discards_input(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    port.set_up(FAST)?;
    let mut host = port.host()?;
    host.send(&text(100))?;
    port.guest.device.reset()?;
    port.set_up(FAST)?;
    host.send(b"z")?;
    assert_eq!(port.receive()?, b'z');
    Ok(())
}

fn an_illegal_state_is_refused(env: &Env) -> Result {
    let _module = Sample::load(env, "mserial")?;
    let port = Port::new(env)?;
    let stream = Stream::parse(&port.guest.save()?).expect("a stream");
    port.guest.v2()?.set_state(v2::State::STOP)?;
    // Offset in the state and an illegal byte: a timer, the number of bytes from the host, IER, FCR, MCR, the flag of
    // an overrun, the numbers of bytes in the FIFOs.
    let cases = [
        (7, 0x7f),
        (25, 2),
        (28, 0x10),
        (29, 2),
        (31, 0x20),
        (34, 2),
        (37, 17),
        (55, 18),
    ];
    for (at, byte) in cases {
        let mut stream = stream.clone();
        let device = stream.position(Kind::Device);
        stream.records[device].payload[at] = byte;
        stream.seal();
        let target = Port::new(env)?;
        let migration = target.guest.v2()?;
        let file = migration
            .set_state(v2::State::RESUMING)?
            .expect("a data file");
        assert_errno!(file.write_all(&stream.bytes()), EINVAL, "byte {at}");
        assert_errno!(migration.set_state(v2::State::STOP), EINVAL);
        target.guest.device.reset()?;
        target.set_up(FAST)?;
        assert!(target.has(IDLE)?, "byte {at}");
    }
    Ok(())
}
