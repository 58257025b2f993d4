// SPDX-License-Identifier: GPL-2.0

//! Messages to another process, with descriptors, over UNIX sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Creates two connected sockets that preserve message boundaries.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a message of at least one byte, optionally with a descriptor.
pub fn send(socket: impl AsFd, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let message = [IoSlice::new(message)];
    sendmsg(socket, &message, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; returns its length and the descriptor sent with it. The length is 0 if the other end is closed.
pub fn receive(socket: impl AsFd, message: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = [IoSliceMut::new(message)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(&socket, &mut message, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = rights.next().and_then(|mut fds| fds.next());
    Ok((received.bytes, fd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_same_file_arrives() {
        let (a, b) = pair().unwrap();
        let (mut reader, mut writer) = UnixStream::pair().unwrap();
        send(&a, b"look", Some(writer.as_fd())).unwrap();
        let mut text = [0; 16];
        let (len, fd) = receive(&b, &mut text).unwrap();
        assert_eq!(text[..len], *b"look");
        let mut passed = UnixStream::from(fd.unwrap());
        passed.write_all(b"x").unwrap();
        writer.write_all(b"y").unwrap();
        drop((passed, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xy");
    }

    #[test]
    fn messages_are_apart() {
        let (a, b) = pair().unwrap();
        send(&a, b"one", None).unwrap();
        send(&a, b"two", None).unwrap();
        drop(a);
        let mut text = [0; 16];
        for expected in ["one", "two", ""] {
            let (len, fd) = receive(&b, &mut text).unwrap();
            assert_eq!(text[..len], *expected.as_bytes());
            assert!(fd.is_none());
        }
    }
}
