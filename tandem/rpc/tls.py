"""TLS of the connections: which files a server and a client have, as one small class for each.

Both read their files with `read`, which checks them, so that a mistake is one line at the start and not a handshake
that fails later. Who serves or connects with them is `credentials.py`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class TlsError(ValueError):
    """A file cannot be used.

    field: of ServerTls or ClientTls, which names it. path: None where none was given. problem: one line.
    """

    def __init__(self, field: str, path: Path | None, problem: str) -> None:
        super().__init__(problem if path is None else f"{path}: {problem}")
        self.field = field
        self.path = path
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ServerPem:
    """What the files of a ServerTls held."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows its callers, and which callers it lets in.

    certificate: PEM file with the server's certificate and after it those that lead to its authority. key: PEM file
    with its private key, not encrypted. client_ca: PEM file with the authorities of callers: each must show a
    certificate of one of them (mutual TLS); None lets in callers without one.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.certificate, self.key, self.client_ca) if file is not None)

    def read(self) -> ServerPem:
        """Raises TlsError for what is missing, no PEM, expired, or does not fit."""
        from tandem.rpc import pem  # a library that services without TLS do without

        certificate, key = pem.read_pair(self.certificate, self.key)
        client_ca = None if self.client_ca is None else pem.read_authorities(self.client_ca, "client_ca")
        return ServerPem(certificate, key, client_ca)


@dataclass(frozen=True, slots=True)
class ClientPem:
    """What the files of a ClientTls held."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Which servers a client trusts, and what it shows them.

    ca: PEM file with the authorities that a server's certificate may be of; None for the public ones, which gRPC brings
    along. certificate, key: PEM files with the client's own, for servers that ask for one; both or none.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.ca, self.certificate, self.key) if file is not None)

    def read(self) -> ClientPem:
        """Raises TlsError for what is missing, no PEM, expired, or does not fit."""
        from tandem.rpc import pem

        ca = None if self.ca is None else pem.read_authorities(self.ca, "ca")
        if self.certificate is None and self.key is None:
            return ClientPem(ca, None, None)
        certificate, key = pem.read_pair(*both(self.certificate, self.key))
        return ClientPem(ca, certificate, key)


def both(certificate: Path | None, key: Path | None) -> tuple[Path, Path]:
    """Raises TlsError where there is one without the other."""
    if certificate is None:
        raise TlsError("certificate", None, "is needed: the certificate to show")
    if key is None:
        raise TlsError("key", None, "is needed: the private key of the certificate")
    return certificate, key
