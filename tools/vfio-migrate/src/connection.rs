// SPDX-License-Identifier: GPL-2.0

//! Makes the link to another machine: TCP, a command, or standard input and output.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use vfio_client::Error;
use vfio_migrate::{Failure, Link};

/// Connects to the receiver.
pub(crate) fn to(
    address: Option<&str>,
    command: Option<&str>,
    timeout: Duration,
) -> Result<Link, Failure> {
    match (address, command) {
        (Some(address), _) => {
            let stream = TcpStream::connect(address);
            tcp(
                stream.map_err(|e| failed("connect to", address, e))?,
                timeout,
            )
        }
        (None, Some(command)) => {
            let child = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|e| failed("run", command, e))?;
            let (Some(input), Some(output)) = (child.stdout, child.stdin) else {
                unreachable!("both are pipes");
            };
            Ok(Link::new(input, output, timeout))
        }
        (None, None) => Ok(standard(timeout)),
    }
}

/// Waits for the sender.
pub(crate) fn from(address: Option<&str>, timeout: Duration) -> Result<Link, Failure> {
    let Some(address) = address else {
        return Ok(standard(timeout));
    };
    let accept = || {
        let listener = TcpListener::bind(address)?;
        eprintln!("listening at {}", listener.local_addr()?);
        Ok(listener.accept()?.0)
    };
    tcp(
        accept().map_err(|e: io::Error| failed("listen at", address, e))?,
        timeout,
    )
}

fn tcp(stream: TcpStream, timeout: Duration) -> Result<Link, Failure> {
    let prepare = || {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.try_clone()
    };
    let input = prepare().map_err(|e| failed("set up", "the connection", e))?;
    Ok(Link::new(input, stream, timeout))
}

fn standard(timeout: Duration) -> Link {
    /// Locks for each call, because the lock is not `Send`.
    struct Input;
    impl Read for Input {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            io::stdin().read(buf)
        }
    }
    struct Output;
    impl Write for Output {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            io::stdout().write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            io::stdout().flush()
        }
    }
    Link::new(Input, Output, timeout)
}

fn failed(what: &str, whom: &str, error: io::Error) -> Failure {
    Error::new(format!("{what} {whom}"), error).into()
}
