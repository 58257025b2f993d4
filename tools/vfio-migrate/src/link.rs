// SPDX-License-Identifier: GPL-2.0

//! The messages between `send` and `receive`, over any two byte streams.
//!
//! ```text
//! send                        receive
//! Hello                ►
//!                      ◄      Hello       the device waits for the stream
//! Phase, Data ...      ►
//! Switch               ►
//!                      ◄      Switch      it has loaded all of pre-copy: the source stops
//! Phase, Data ...      ►
//! Config, End          ►
//!                      ◄      Ready       it has adopted the state, and is stopped
//! Commit               ►
//!                      ◄      Done        it runs
//! ```
//!
//! A receiver that fails sends Failed in place of its next message. Bye ends the link from either side. Before Commit, an end of the link means that the
//! source runs again and the destination is reset. So the two devices never run at once.

use std::io::{self, Read, Write};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::Duration;

use vfio_client::Error;

use crate::error::{Failure, Kind, Result, REMOTE};

/// The first bytes of Hello.
const MAGIC: &[u8; 12] = b"vfio-migrate";
/// The version of the messages.
const VERSION: u32 = 1;
/// The longest payload.
pub(crate) const PAYLOAD_MAX: usize = 1 << 20;
/// Messages that are read ahead.
const AHEAD: usize = 4;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The first message of each side, with the version.
    Hello(u32),
    /// A phase begins: pass of pre-copy, or 0 for stop-and-copy, and the bytes to send.
    Phase(u32, u64),
    /// Bytes of the stream.
    Data(Vec<u8>),
    /// The source is about to stop; the destination has no objection.
    Switch,
    /// Configuration space.
    Config(Vec<u8>),
    /// The stream has ended.
    End,
    /// The destination has adopted the state.
    Ready,
    /// The source gives the device up.
    Commit,
    /// The destination runs.
    Done,
    /// The destination has failed.
    Failed(Remote),
    /// Nothing follows.
    Bye,
}

/// A failure at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The discriminant of [`Kind`].
    kind: u8,
    /// Step, field, errno, as text.
    text: String,
    /// What was done about it.
    notes: Vec<String>,
}

impl Remote {
    /// Returns the kind and, each ended by a NUL, the text and the notes.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind];
        for part in std::iter::once(&self.text).chain(&self.notes) {
            bytes.extend(part.bytes().filter(|b| *b != 0));
            bytes.push(0);
        }
        bytes.truncate(PAYLOAD_MAX);
        bytes
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let rest = String::from_utf8_lossy(rest);
        let mut parts = rest.split_terminator('\0').map(String::from);
        Some(Remote {
            kind: *kind,
            text: parts.next()?,
            notes: parts.collect(),
        })
    }
}

impl From<&Failure> for Remote {
    fn from(failure: &Failure) -> Self {
        let mut notes = failure.notes.clone();
        notes.extend(failure.hint().map(String::from));
        Remote {
            kind: failure.kind as u8,
            text: failure.to_string(),
            notes,
        }
    }
}

impl From<Remote> for Failure {
    fn from(remote: Remote) -> Self {
        let kind = match remote.kind {
            3 => Kind::Refused,
            4 => Kind::NotMigratable,
            _ => Kind::Failed,
        };
        let failure = Failure::new(kind, Error::other(REMOTE, remote.text));
        let notes = remote.notes.into_iter();
        notes.fold(failure, |failure, note| {
            failure.note(format!("destination: {note}"))
        })
    }
}

impl Message {
    /// Returns the name.
    fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Phase(..) => "Phase",
            Message::Data(_) => "Data",
            Message::Switch => "Switch",
            Message::Config(_) => "Config",
            Message::End => "End",
            Message::Ready => "Ready",
            Message::Commit => "Commit",
            Message::Done => "Done",
            Message::Failed(_) => "Failed",
            Message::Bye => "Bye",
        }
    }

    /// Writes a kind, a length and the payload.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (kind, payload): (u8, Vec<u8>) = match self {
            Message::Hello(version) => (b'H', [&MAGIC[..], &version.to_le_bytes()].concat()),
            Message::Phase(pass, pending) => (
                b'P',
                [&pass.to_le_bytes()[..], &pending.to_le_bytes()].concat(),
            ),
            Message::Data(bytes) => return write_frame(out, b'D', bytes),
            Message::Config(bytes) => return write_frame(out, b'c', bytes),
            Message::Switch => (b'S', Vec::new()),
            Message::End => (b'E', Vec::new()),
            Message::Ready => (b'R', Vec::new()),
            Message::Commit => (b'C', Vec::new()),
            Message::Done => (b'd', Vec::new()),
            Message::Failed(remote) => (b'F', remote.encode()),
            Message::Bye => (b'B', Vec::new()),
        };
        write_frame(out, kind, &payload)
    }

    /// Reads a message; `None` at the end of the input.
    fn read(input: &mut dyn Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        if input.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut head[1..])?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > PAYLOAD_MAX {
            return Err(malformed(kind));
        }
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        Self::decode(kind, payload).map(Some)
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        let message = match (kind, payload.len()) {
            (b'H', 16) if payload.starts_with(MAGIC) => Message::Hello(word(&payload[12..])),
            (b'P', 12) => {
                let pending = payload[4..].try_into().expect("it has 8 bytes");
                Message::Phase(word(&payload), u64::from_le_bytes(pending))
            }
            (b'D', _) => Message::Data(payload),
            (b'c', _) => Message::Config(payload),
            (b'S', 0) => Message::Switch,
            (b'E', 0) => Message::End,
            (b'R', 0) => Message::Ready,
            (b'C', 0) => Message::Commit,
            (b'd', 0) => Message::Done,
            (b'B', 0) => Message::Bye,
            (b'F', _) => Message::Failed(Remote::decode(&payload).ok_or_else(|| malformed(kind))?),
            _ => return Err(malformed(kind)),
        };
        Ok(message)
    }
}

fn write_frame(out: &mut dyn Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| malformed(kind))?;
    out.write_all(&[&[kind][..], &length.to_le_bytes()].concat())?;
    out.write_all(payload)?;
    out.flush()
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("it has 4 bytes"))
}

fn malformed(kind: u8) -> io::Error {
    let why = format!(
        "byte {kind:#04x} begins no message; is the other end vfio-migrate, and silent otherwise?"
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn lost(why: impl Into<io::Error>) -> Failure {
    Error::new("link", why).into()
}

fn closed() -> Failure {
    lost(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "closed by the other end",
    ))
}

/// A link to the other end.
pub struct Link {
    /// What a thread reads. It ends with the input.
    incoming: Receiver<io::Result<Message>>,
    out: Box<dyn Write + Send>,
    timeout: Duration,
}

impl Link {
    /// Takes over two byte streams. Waiting for a message fails after `timeout`.
    pub fn new(
        mut input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        timeout: Duration,
    ) -> Self {
        let (sender, incoming) = sync_channel(AHEAD);
        thread::spawn(move || {
            while let Some(message) = Message::read(&mut input).transpose() {
                let last = message.is_err();
                if matches!(message, Ok(Message::Bye)) || sender.send(message).is_err() || last {
                    break;
                }
            }
        });
        Link {
            incoming,
            out: Box::new(output),
            timeout,
        }
    }

    /// Sends a message. If that fails, the other end may have said why.
    pub(crate) fn send(&mut self, message: &Message) -> Result<()> {
        let Err(error) = message.write(&mut self.out) else {
            return Ok(());
        };
        match self.incoming.recv_timeout(self.timeout) {
            Ok(Ok(Message::Failed(remote))) => Err(remote.into()),
            _ => Err(lost(error)),
        }
    }

    /// Fails if the other end has failed. Does not wait.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.incoming.try_recv() {
            Ok(message) => Err(unexpected(&accept(message)?, "nothing")),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err(closed()),
        }
    }

    /// Waits for the next message, which is not Failed.
    pub(crate) fn receive(&mut self) -> Result<Message> {
        match self.incoming.recv_timeout(self.timeout) {
            Ok(message) => accept(message),
            Err(RecvTimeoutError::Disconnected) => Err(closed()),
            Err(RecvTimeoutError::Timeout) => Err(lost(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing arrived for {} s", self.timeout.as_secs()),
            ))),
        }
    }

    /// Waits for the other end to close the link, so that it can read what was sent last.
    pub(crate) fn drain(&mut self) {
        while let Ok(Ok(_)) = self.incoming.recv_timeout(self.timeout) {}
    }

    /// Sends Hello.
    pub(crate) fn greet(&mut self) -> Result<()> {
        self.send(&Message::Hello(VERSION))
    }

    /// Waits for Hello of this version.
    pub(crate) fn greeted(&mut self) -> Result<()> {
        match self.receive()? {
            Message::Hello(VERSION) => Ok(()),
            Message::Hello(version) => Err(lost(io::Error::other(format!(
                "the other end has version {version} of the messages, this one {VERSION}"
            )))),
            message => Err(unexpected(&message, "Hello")),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The other end may be gone.
        let _ = Message::Bye.write(&mut self.out);
    }
}

fn accept(message: io::Result<Message>) -> Result<Message> {
    match message.map_err(lost)? {
        Message::Failed(remote) => Err(remote.into()),
        message => Ok(message),
    }
}

/// Returns the failure of a message that does not belong here.
pub(crate) fn unexpected(message: &Message, wanted: &str) -> Failure {
    lost(io::Error::other(format!(
        "{} arrived in place of {wanted}",
        message.name()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Link, Link) {
        let (a, b) = UnixStream::pair().unwrap();
        let link = |s: UnixStream| Link::new(s.try_clone().unwrap(), s, Duration::from_secs(60));
        (link(a), link(b))
    }

    fn failed() -> Message {
        Message::Failed(Remote {
            kind: Kind::Refused as u8,
            text: "load: data_size: Invalid argument (EINVAL)".into(),
            notes: vec!["the device was reset".into()],
        })
    }

    #[test]
    fn every_message_arrives() {
        let (mut a, mut b) = pair();
        for message in [
            Message::Hello(7),
            Message::Phase(3, 1 << 40),
            Message::Data(vec![1; PAYLOAD_MAX]),
            Message::Config(vec![2; 256]),
            Message::Switch,
            Message::End,
            Message::Ready,
            Message::Commit,
            Message::Done,
        ] {
            a.send(&message).unwrap();
            assert_eq!(b.receive().unwrap(), message);
        }
    }

    #[test]
    fn a_failure_keeps_its_kind() {
        let (mut a, mut b) = pair();
        a.send(&failed()).unwrap();
        let failure = b.receive().unwrap_err();
        assert_eq!(failure.kind, Kind::Refused);
        assert!(failure.to_string().contains("EINVAL"), "{failure}");
        assert_eq!(failure.notes, ["destination: the device was reset"]);
    }

    #[test]
    fn a_closed_link_says_why_it_was_closed() {
        let (mut a, mut b) = pair();
        a.send(&failed()).unwrap();
        drop(a);
        let failure = loop {
            if let Err(failure) = b.check() {
                break failure;
            }
        };
        assert_eq!(failure.kind, Kind::Refused);
    }

    #[test]
    fn other_input_is_named() {
        for (input, text) in [
            (&b"Last login: today"[..], "is the other end vfio-migrate"),
            (b"D\xff\xff\xff\xff", "is the other end vfio-migrate"),
            (b"", "closed by the other end"),
            (b"E\0", "failed to fill whole buffer"),
            (b"E\0\0\0\0", "End arrived in place of Hello"),
            (
                b"H\x10\0\0\0vfio-migrate\x02\0\0\0",
                "version 2 of the messages",
            ),
        ] {
            let mut link = Link::new(input, io::sink(), Duration::from_secs(60));
            let failure = link.greeted().unwrap_err();
            assert!(failure.to_string().contains(text), "{failure}");
        }
    }

    #[test]
    fn silence_ends() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut link = Link::new(a, io::sink(), Duration::from_millis(1));
        let failure = link.receive().unwrap_err();
        assert!(failure.to_string().contains("nothing arrived"), "{failure}");
        drop(b);
    }
}
