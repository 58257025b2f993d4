# SPDX-License-Identifier: GPL-2.0
"""What a migration stream goes through. Each is used for one migration."""

import os
import socket
import subprocess

from migrate.wait import Trouble

# The secret of both sides, for TLS with a key that both know, and another one.
KEY, OTHER_KEY = "5a" * 32, "a5" * 32
# AES takes minutes in an emulated machine.
PRIORITY = "NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305"
# The clock of the other machine may be behind.
VALID_FROM = "20000101000000Z"
# What the first record of a device's stream begins with, and the offset of the field memory_size in it:
# Documentation/stream.rst.
MAGIC, MEMORY_SIZE = b"VFIOMDEV", 40


class Transport:
    """The base: a URI for each side."""

    # Whether the destination can answer.
    answers = True
    # Whether the destination reads when the source has written everything.
    stored = False

    def __init__(self, path):
        self.path = path
        self.uri = f"unix:{path}"
        # Of objects that it makes, in both QEMUs. A QEMU may have those of an earlier migration.
        self.id = "for-" + os.path.basename(path).replace(".", "-")

    async def prepare(self, source, destination):
        """Gives both sides what they need. Returns migration parameters of both."""
        return {}

    async def listen(self, destination):
        """Makes the destination read."""
        await destination.execute("migrate-incoming", uri=self.uri)

    async def connect(self, source):
        """Makes the source write: the migration begins."""
        await source.execute("migrate", uri=self.uri)


class Unix(Transport):
    """A UNIX socket."""


class Deaf(Unix):
    """A UNIX socket, whose destination is stopped before it answers."""

    async def listen(self, destination):
        await super().listen(destination)
        destination.pause()


class Tcp(Transport):
    """TCP; the destination chooses the port."""

    async def listen(self, destination):
        await destination.execute("migrate-incoming", uri=f"tcp:{destination.host.where()}:0")
        address = (await destination.execute("query-migrate"))["socket-address"][0]
        self.uri = f"tcp:{address['host']}:{address['port']}"


class Fd(Transport):
    """A socket pair that both get as descriptors."""

    def __init__(self, path):
        super().__init__(path)
        self.ends = socket.socketpair()

    async def give(self, qemu, end):
        """Gives a QEMU its end."""
        qemu.client.send_fd_scm(end.fileno())
        await qemu.execute("getfd", fdname="stream")
        end.close()

    async def listen(self, destination):
        await self.give(destination, self.ends[1])
        await destination.execute("migrate-incoming", uri="fd:stream")

    async def connect(self, source):
        await self.give(source, self.ends[0])
        await source.execute("migrate", uri="fd:stream")


class ExecFile(Transport):
    """A process on each side, with a file between them."""

    answers = False
    stored = True

    async def listen(self, destination):
        await destination.execute("migrate-incoming", uri=f"exec:cat {self.path}")

    async def connect(self, source):
        await source.execute("migrate", uri=f"exec:cat >{self.path}")


class Exec(ExecFile):
    """The same with a FIFO."""

    stored = False

    def __init__(self, path):
        super().__init__(path)
        os.mkfifo(path)


class Truncated(ExecFile):
    """A file that loses its last eighth before the destination reads it."""

    async def listen(self, destination):
        os.truncate(self.path, os.path.getsize(self.path) * 7 // 8)
        await super().listen(destination)


class Flipped(ExecFile):
    """A file in which a bit of the device's data flips before the destination reads it."""

    async def listen(self, destination):
        with open(self.path, "r+b") as file:
            data = file.read()
            at = data.rindex(MAGIC) + MEMORY_SIZE
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
        await super().listen(destination)


class File(Transport):
    """A file that QEMU writes and reads itself."""

    answers = False
    stored = True

    def __init__(self, path):
        super().__init__(path)
        self.uri = f"file:{path}"


class TlsPsk(Tcp):
    """TLS with a key that both know."""

    keys = KEY, KEY

    async def prepare(self, source, destination):
        for qemu, key, endpoint in ((source, self.keys[0], "client"), (destination, self.keys[1], "server")):
            directory = f"{self.path}.{endpoint}"
            os.mkdir(directory)
            with open(f"{directory}/keys.psk", "w", encoding="ascii") as file:
                file.write(f"qemu:{key}\n")
            await qemu.execute("object-add", qom_type="tls-creds-psk", id=self.id, dir=directory,
                               endpoint=endpoint, priority=PRIORITY)
        return {"tls_creds": self.id}


class TlsOtherKey(TlsPsk):
    """TLS, and the destination has another key."""

    keys = KEY, OTHER_KEY


class TlsX509(Tcp):
    """TLS with certificates of an authority that both trust, for the host name `destination`."""

    host = "destination"

    async def prepare(self, source, destination):
        directory = f"{self.path}.x509"
        os.mkdir(directory)
        certificates(directory)
        for qemu, endpoint in ((source, "client"), (destination, "server")):
            await qemu.execute("object-add", qom_type="tls-creds-x509", id=self.id, dir=directory,
                               endpoint=endpoint, verify_peer=True, priority=PRIORITY)
        return {"tls_creds": self.id, "tls_hostname": self.host}


class TlsOtherHost(TlsX509):
    """TLS, and the certificate is for another host."""

    host = "elsewhere"


def certificates(directory):
    """Makes an authority, and a certificate for each side, in the names that QEMU looks for."""
    def openssl(*words):
        done = subprocess.run(["openssl", *words], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False)
        if done.returncode:
            raise Trouble(f"openssl {words[0]}: {done.stdout.decode(errors='replace').strip()}")

    def request(name, *words):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-not_before", VALID_FROM, "-days", "3650",
                "-keyout", f"{name}-key.pem", "-out", f"{name}-cert.pem", *words)

    request("ca", "-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, usage, host in (("server", "serverAuth", "destination"), ("client", "clientAuth", "source")):
        request(name, "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
                "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=digitalSignature",
                "-addext", f"extendedKeyUsage={usage}", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem")
