"""Authorities and certificates in files, made on the spot."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tandem.rpc.tls import ClientTls, ServerTls

#: What servers of these tests are reached by.
LOOPBACK = ("127.0.0.1", "localhost")
PAST = datetime.now(UTC) - timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()


class Authority:
    """An authority in `folder`; `ca` is its certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._authority = trustme.CA(organization_name=name)
        self.ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self, name: str, *identities: str, not_after: datetime | None = None, common_name: str | None = None
    ) -> Pair:
        """Writes NAME.crt and NAME.key, in place of those that are there."""
        held = identities if identities or common_name else LOOPBACK
        before = None if not_after is None else not_after - timedelta(days=1)
        made = self._authority.issue_cert(*held, common_name=common_name, not_before=before, not_after=not_after)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        replace(pair.certificate, b"".join(blob.bytes() for blob in made.cert_chain_pems))
        replace(pair.key, made.private_key_pem.bytes())
        return pair

    def server(self, name: str = "server", *identities: str, mutual: bool = False) -> ServerTls:
        pair = self.issue(name, *identities)
        return ServerTls(pair.certificate, pair.key, self.ca if mutual else None)

    def client(self, name: str | None = None) -> ClientTls:
        """name: of a certificate to show; None for none."""
        if name is None:
            return ClientTls(self.ca)
        pair = self.issue(name)
        return ClientTls(self.ca, pair.certificate, pair.key)


def replace(path: Path, data: bytes) -> None:
    """As whoever renews a file does it: at once."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)


def shown(address: str) -> str:
    """The certificate that a server shows, as PEM. Blocks."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=30)


def first(pem: str) -> str:
    """The certificate of a chain that is the server's own."""
    end = "-----END CERTIFICATE-----"
    return pem.split(end)[0].strip() + f"\n{end}\n"
