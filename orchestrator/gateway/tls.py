"""TLS of the HTTP face: the server's files, looked at with every connection."""

from __future__ import annotations

import ssl

from tandem.rpc.tls import ServerTls
from tandem.watched import Watched


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """To listen with: each handshake uses the files as they are then; connections that are open go on.

    Raises TlsError for the files as they are now.
    """
    watched = Watched(tls.files, lambda: _context(tls), what="TLS files of the HTTP server")
    listening = watched.get()

    def renewed(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called after a caller's first message, whether or not it names a server."""
        connection.context = watched.get()

    listening.sni_callback = renewed
    return listening


def _context(tls: ServerTls) -> ssl.SSLContext:
    tls.read()  # says what is wrong better than OpenSSL
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key, password="")  # never asked for on a terminal
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca)
        # No session is taken up again: one that began under an authority that is no longer trusted must not go on. Of
        # TLS 1.2, Python cannot turn that off.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
    return context
