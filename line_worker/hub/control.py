"""The hub's end of the control socket: hears operators without ever waiting for one.

It is looked at once a beat and does a bounded piece of work then: whoever sends nothing, too much, or does not read
its answer costs a few system calls and is cut. Each command that changes something is logged with the user and
process that sent it.
"""

from __future__ import annotations

import inspect
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from line_worker.errors import DecodeError, LineWorkerError, WireError
from line_worker.wire.control import MAX_ANSWER, MAX_REQUEST, NAME, decode, encode

log = structlog.get_logger()

MAX_CLIENTS = 8
MODE = 0o660
GONE = float("-inf")  # heard so long ago that it is cut
SILENT_S = 2.0  # a client that neither finishes its request nor takes its answer for so long is cut

Command = Callable[..., dict[str, Any]]


@dataclass(slots=True)
class _Client:
    """One connection; `heard` is when it last got on."""

    channel: socket.socket
    pid: int
    uid: int
    heard: float
    request: bytes = b""
    answer: bytes = field(default=b"", repr=False)


class ControlSocket:
    """Listens in `runtime`. `commands` maps names to functions of keyword arguments that return the answer's fields.

    A command refuses by raising a LineWorkerError. It runs in the hub's loop: it must not wait for anything.

    Raises:
        WireError: the socket cannot be bound.
    """

    def __init__(self, runtime: Path, commands: Mapping[str, Command]) -> None:
        self._path, self._commands = runtime / NAME, commands
        self._clients: list[_Client] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.unlink(missing_ok=True)  # of a hub that was killed: the hub's lock is ours
            os.fchmod(self._listener.fileno(), MODE)  # the file never has more, not even for a moment
            self._listener.bind(str(self._path))
            self._path.chmod(MODE)
            self._listener.listen(MAX_CLIENTS)
        except OSError as error:
            self._listener.close()
            raise WireError(
                f"{self._path}: cannot be bound ({error}), so no operator could reach this hub; check the folder and "
                "its permissions"
            ) from error

    def poll(self, now: float) -> None:
        """Do what can be done without waiting: at most one request for each of a few clients."""
        self._accept(now)
        for client in self._clients:
            self._serve(client, now)
        for client in [client for client in self._clients if now - client.heard > SILENT_S]:
            self._cut(client)

    def close(self) -> None:
        """Stop listening; the file goes."""
        for client in list(self._clients):
            self._cut(client)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _accept(self, now: float) -> None:
        while len(self._clients) < MAX_CLIENTS:
            try:
                channel, _ = self._listener.accept()
            except OSError:  # nobody waits, or who did has gone
                return
            channel.setblocking(False)
            credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", credentials)
            self._clients.append(_Client(channel, pid, uid, now))

    def _serve(self, client: _Client, now: float) -> None:
        """Go on with one client: send what it has not taken, else read, and answer a request that is whole."""
        if client.answer:
            self._send(client)
            return
        if b"\n" not in client.request:
            self._read(client)
        line, end, rest = client.request.partition(b"\n")
        if end:
            client.heard, client.request = now, rest
            client.answer = self._answer(client, line)
            self._send(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.channel.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.request += data
        if not data or len(client.request) > MAX_REQUEST:
            client.heard, client.request = GONE, b""

    def _send(self, client: _Client) -> None:
        try:
            client.answer = client.answer[client.channel.send(client.answer) :]
        except BlockingIOError:
            return
        except OSError:
            client.heard = GONE

    def _answer(self, client: _Client, line: bytes) -> bytes:
        command = "?"
        try:
            request = decode(line)
            command = str(request.pop("command", "?"))[:100]
            answer = encode({"ok": True, **self._call(command, request)})
        except LineWorkerError as error:
            log.warning("command refused", command=command, uid=client.uid, pid=client.pid, error=str(error))
            return encode({"ok": False, "error": str(error)})
        if command != "status":  # which changes nothing, and pages ask for it all day
            log.info("command", command=command, uid=client.uid, pid=client.pid, **request)
        if len(answer) > MAX_ANSWER:
            return encode({"ok": False, "error": f"the answer would have {len(answer)} bytes"})
        return answer

    def _call(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        function = self._commands.get(command)
        if function is None:
            raise DecodeError(f"{command!r} is no command; there are: {', '.join(self._commands)}")
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise DecodeError(f"{command}: {error}") from error
        return function(**arguments)

    def _cut(self, client: _Client) -> None:
        client.channel.close()
        self._clients.remove(client)
