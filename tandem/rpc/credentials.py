"""From TLS files to what gRPC serves and connects with, renewed when the files change."""

from __future__ import annotations

import re

import grpc

from tandem.rpc.tls import ClientTls, ServerPem, ServerTls
from tandem.watched import Watched

# What to say for what gRPC's account of a connection that failed holds; the first that fits.
_PROBLEMS = (
    (re.compile(r"Hostname Verification Check failed"), "its certificate does not hold the name that it is called by"),
    (re.compile(r"WRONG_VERSION_NUMBER"), "the other side speaks no TLS (wrong version number)"),
    (re.compile(r"CERTIFICATE_VERIFY_FAILED(: [^:]+)?"), None),
    (re.compile(r"handshake failed"), "the TLS handshake failed"),
    # Before anything was said: what a server does with callers that speak no TLS or show no certificate it trusts.
    (re.compile(r"failed to connect.*Socket closed"), "it ends connections; does it ask for TLS or a certificate?"),
)


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """gRPC asks for the files with every connection, before its handshake: a new one has the new certificate, streams
    on old ones go on. Raises TlsError for the files as they are now."""
    watched = Watched(tls.files, tls.read, what="TLS files of the gRPC server")
    used = watched.get()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """None where nothing has changed. Called by gRPC's threads."""
        nonlocal used
        found = watched.get()
        if found is used:
            return None
        used = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), renewed, require_client_authentication=tls.client_ca is not None
    )


def channel_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    """Of the files as they are now. Raises TlsError."""
    pem = tls.read()
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def watched_channel_credentials(tls: ClientTls) -> Watched[grpc.ChannelCredentials]:
    """Of the files as they are whenever it is asked for. Raises TlsError."""
    return Watched(tls.files, lambda: channel_credentials(tls), what="TLS files of the gRPC client")


def handshake_problem(error: grpc.RpcError) -> str | None:
    """What went wrong where a connection failed for TLS, or may have; None for any other failure."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    for pattern, told in _PROBLEMS:
        if found := pattern.search(error.details() or ""):
            return told or found[0].replace("_", " ").lower()
    return None


def _configuration(pem: ServerPem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)
