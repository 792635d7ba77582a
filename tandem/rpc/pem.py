"""PEM files, checked before anything is served or called with them. Errors are TlsError, one line each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tandem.rpc.tls import TlsError


def read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate with its chain, and its private key. Raises TlsError."""
    data = _read(certificate, "certificate")
    chain = _certificates(data, certificate, "certificate")
    for each in chain:
        if problem := _out_of_date(each):
            raise TlsError("certificate", certificate, problem)
    key_data = _read(key, "key")
    if _public(_private_key(key_data, key)) != _public(chain[0]):
        raise TlsError("key", key, f"is not the key of the certificate in {certificate}")
    return data, key_data


def read_authorities(path: Path, field: str) -> bytes:
    """Certificates of authorities, one or more. Raises TlsError, as of `field`."""
    data = _read(path, field)
    problems = [_out_of_date(each) for each in _certificates(data, path, field)]
    if all(problems):  # of a bundle, some may be past
        raise TlsError(field, path, str(problems[0]))
    return data


def names(certificate: bytes) -> list[str]:
    """What the first certificate is for: host names, then addresses; its common name where it has neither.

    Wildcards are given as a name that they hold for. certificate: PEM, as `read_pair` returns it.
    """
    first = x509.load_pem_x509_certificates(certificate)[0]
    found: list[str] = []
    try:
        held = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        found += [name.replace("*", "any", 1) for name in held.get_values_for_type(x509.DNSName)]
        found += [str(address) for address in held.get_values_for_type(x509.IPAddress)]
    if not found:
        found = [str(name.value) for name in first.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return found


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(field, path, f"cannot be read: {error.strerror or error}") from error


def _certificates(data: bytes, path: Path, field: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise TlsError(field, path, "holds no certificate in PEM") from error


def _private_key(data: bytes, path: Path) -> Any:
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        raise TlsError("key", path, "is encrypted; give the key without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsError("key", path, "holds no private key in PEM") from error


def _public(holder: Any) -> bytes:
    """Of a certificate or a private key, comparable."""
    encoded: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _out_of_date(certificate: x509.Certificate) -> str | None:
    now = datetime.now(UTC)
    name = certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"
    if now > certificate.not_valid_after_utc:
        return f"the certificate of {name!r} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_valid_before_utc:
        return f"the certificate of {name!r} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return None
