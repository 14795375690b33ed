"""Who may come to what we serve over HTTP: under which name, and TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.sink.secret import read_secret

if TYPE_CHECKING:
    from line_worker.config_sinks import Served
    from line_worker.wire.http import Request


LOOPBACK = ("127.0.0.1", "localhost")


def is_named(asked: Request, host: str, port: int) -> bool:
    """Whether a request names us: one of a browser whose name server was made to lie names somebody else."""
    return asked.headers.get("host", "") in {f"{name}:{port}" for name in (host, *LOOPBACK)}


def encryption(sink: Served, who: str) -> ssl.SSLContext | None:
    """Return what connections are encrypted with, None without a certificate; `who` serves.

    Raises:
        SinkError: certificate or key cannot be used.
    """
    if sink.certificate is None or sink.private_key is None:
        return None
    read_secret(sink.private_key, who, "private key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(sink.certificate, sink.private_key)
    except (OSError, ssl.SSLError) as error:
        raise SinkError(
            f"{who}: {sink.certificate} and {sink.private_key} cannot be used for TLS ({error}), so nothing is "
            "served; give a certificate and its key, both PEM"
        ) from error
    return context
