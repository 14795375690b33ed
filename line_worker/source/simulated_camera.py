"""A network camera without hardware: serves pictures as MJPEG over HTTP. The `camera` source is tested on this twin.

`stop` is the pulled cable: connections are cut at once and new ones refused, until `start` is called again on the same
port. `pause` keeps connections open and sends nothing: a camera that hangs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDARY = "frame"


class SimulatedCamera:
    """Sends `pictures` (uint8, gray or BGR) over and over, `rate` a second, to everyone who connects."""

    def __init__(self, pictures: Sequence[NDArray[Any]], rate: float = 30.0) -> None:
        import cv2

        self.pictures = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
        self.period_s = 1 / rate
        self.pause = threading.Event()
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it can be reached."""
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Accept connections, on the same port as before if it was started before."""
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._server is not None:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> SimulatedCamera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    def __init__(self, camera: SimulatedCamera, port: int) -> None:
        self.camera = camera
        self.running = True
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Stream)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every open connection."""
        self.running = False
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Stream(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side, or `cut`, has ended the connection
            self._send_all()

    def _send_all(self) -> None:
        camera, number = self.server.camera, 0
        start = time.monotonic()
        while self.server.running:
            if not camera.pause.is_set():
                picture = camera.pictures[number % len(camera.pictures)]
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
            number += 1
            time.sleep(max(0.0, start + number * camera.period_s - time.monotonic()))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
