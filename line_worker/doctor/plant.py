"""The line's ways to the plant: ports for OPC UA and the page, digital outputs, brokers and web servers."""

from __future__ import annotations

import importlib.util
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from line_worker.config import Broker, Config, GpioSink, HttpSink, LiveSink, OpcUaSink, WebhookSink
from line_worker.doctor import Finding, error, ok, warning
from line_worker.doctor.ways import Check, free
from line_worker.errors import SinkError
from line_worker.live.door import Door
from line_worker.sink.gpio.chip import Wiring, chip_of
from line_worker.sink.http import read_token
from line_worker.sink.secret import read_secret
from line_worker.sink.served import encryption
from line_worker.wire.hosts import is_loopback

REACH_S = 3.0


def plant_checks(config: Config, *, running: bool) -> Iterator[tuple[str, Check]]:
    """Yield a name and a check for each sink that speaks to the plant."""
    for sink in config.sinks:
        what = f"sink {sink.name}"
        if isinstance(sink, OpcUaSink):
            yield what, partial(check_opcua, what, sink, running=running)
        if isinstance(sink, GpioSink):
            yield what, partial(check_gpio, what, sink, running=running)
        if isinstance(sink, LiveSink):
            yield what, partial(check_live, what, sink, running=running)
        if isinstance(sink, HttpSink):
            yield what, partial(check_http, what, sink, running=running)
        if isinstance(sink, Broker):
            yield what, partial(check_broker, what, sink)
        if isinstance(sink, WebhookSink):
            yield what, partial(check_webhook, what, sink)


def check_opcua(what: str, sink: OpcUaSink, *, running: bool) -> Iterator[Finding]:
    """The server's library is installed, its port is free, and what other hosts reach is encrypted."""
    yield from _installed(what, "asyncua", "opcua")
    if running:
        yield ok(what, f"not tried: the running line has {sink.host}:{sink.port}")
    else:
        yield free(what, sink.host, sink.port, "OPC UA clients need it")
    if not is_loopback(sink.host) and sink.certificate is None:
        advice = "set certificate, private_key and trusted where the clients can use them"
        yield warning(what, "other hosts reach it, and nothing is encrypted or signed", advice)


def check_gpio(what: str, sink: GpioSink, *, running: bool) -> Iterator[Finding]:
    """The chip is there, and its lines are free; they reject for a moment."""
    lines = ", ".join(f"{name} {line}" for name, line in sink.lines.items())
    if running:
        yield ok(what, f"not tried: the running line has the lines of {sink.chip}")
        return
    try:
        chip_of(Wiring(str(sink.chip), sink.lines, sink.active_low)).close()
    except SinkError as failure:
        yield error(what, str(failure), "until the lines can be taken the station does not run, and nothing passes")
    else:
        yield ok(what, f"{sink.chip}: {lines} are free, and reject")


def check_live(what: str, sink: LiveSink, *, running: bool) -> Iterator[Finding]:
    """The page's port is free, its token and certificate can be used."""
    if running:
        yield ok(what, f"not tried: the running line has {sink.host}:{sink.port}")
    else:
        yield free(what, sink.host, sink.port, "browsers need it")
    try:
        Door(sink)
        encryption(sink, "the page")
    except SinkError as failure:
        yield error(what, str(failure), "the line runs without the page until it is put right")


def check_http(what: str, sink: HttpSink, *, running: bool) -> Iterator[Finding]:
    """Its port is free, its token and certificate can be used."""
    if running:
        yield ok(what, f"not tried: the running line has {sink.host}:{sink.port}")
    else:
        yield free(what, sink.host, sink.port, "those who announce parts need it")
    try:
        if sink.token_file is not None:
            read_token(sink)
        encryption(sink, what)
    except SinkError as failure:
        yield error(what, str(failure), "no part can be announced until it is put right")


_LIBRARIES = {"mqtt": "paho", "sparkplug": "google.protobuf", "nats": "nats", "kafka": "confluent_kafka"}


def check_broker(what: str, sink: Broker) -> Iterator[Finding]:
    """The client's library is installed, the broker can be reached, and its certificate fits.

    With NATS encryption begins after its own greeting: there the certificate is not looked at.
    """
    kind = str(getattr(sink, "kind", ""))
    yield from _installed(what, _LIBRARIES[kind], kind)
    tls = sink.tls and kind != "nats"
    for host, port in sink.places:
        yield _answers(what, "the broker", host, port, sink.ca if tls else None, tls=tls)
    away = [host for host, _ in sink.places if not is_loopback(host)]
    if away and not sink.tls:
        yield warning(what, f"outcomes cross the network to {', '.join(away)} in the clear", "set tls = true")


def check_webhook(what: str, sink: WebhookSink) -> Iterator[Finding]:
    """Its secret can be read by us alone, the server can be reached, and its certificate fits."""
    try:
        read_secret(sink.secret_file, what, "secret")
    except SinkError as failure:
        yield error(what, str(failure), "outcomes wait in the journal until it is put right")
    where = urlsplit(sink.url)
    encrypted = where.scheme == "https"
    host, port = where.hostname or "", where.port or (443 if encrypted else 80)
    yield _answers(what, "the web server", host, port, sink.ca, tls=encrypted)
    if not is_loopback(host) and not encrypted:
        yield warning(what, f"outcomes cross the network to {host} in the clear", "use an https address")


def _installed(what: str, module: str, extra: str) -> Iterator[Finding]:
    if not _found(module):
        yield error(what, f"{module} is not installed: this sink does nothing", f"pip install line-worker[{extra}]")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of is not there
        return False


def _answers(what: str, who: str, host: str, port: int, ca: Path | None, *, tls: bool) -> Finding:
    """Connect and, with `tls`, shake hands; a durable sink's peer that is away costs nothing but time."""
    try:
        _shake(host, port, ssl.create_default_context(cafile=ca).wrap_socket if tls else None)
    except ssl.SSLCertVerificationError as failure:
        advice = "set host to a name in the certificate, or ca to what has signed it"
        return error(what, f"{who} {host}:{port}: its certificate is not accepted ({failure.verify_message})", advice)
    except OSError as failure:
        advice = "check its power, network, host and port; outcomes wait in the journal until it can be reached"
        return warning(what, f"{who} {host}:{port} cannot be reached ({failure.strerror or failure})", advice)
    return ok(what, f"{who} {host}:{port} can be reached")


def _shake(host: str, port: int, wrap: Callable[..., ssl.SSLSocket] | None) -> None:
    with socket.create_connection((host, port), timeout=REACH_S) as plain:
        if wrap is not None:
            wrap(plain, server_hostname=host).close()
