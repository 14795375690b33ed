"""What the tests of MQTT share: Debian's mosquitto as the broker, and certificates."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from line_worker.ports import free_port
from plc_process import Wire
from plc_station import wait_for
from stopping import send_signal

HOST = "127.0.0.1"
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class Mosquitto:
    """A broker that keeps what it has confirmed, also when it is killed."""

    folder: Path
    more: str = "allow_anonymous true"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        if not self.port:
            self.port = free_port()
        self.folder.mkdir(exist_ok=True)
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} {HOST}\n{self.more}\nuser root\npersistence true\n"
            f"persistence_location {self.folder}/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        command = [str(MOSQUITTO), "-c", str(self.folder / "mosquitto.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens)
        return self

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "mosquitto has ended"
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        send_signal(self.process.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Older(Wire):
    """A way to a broker that speaks MQTT 3.1.1 alone: a newer client gets `answer`, and the connection ends."""

    answer = b""

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        if not answers:
            first = source.recv(65536)
            if first[first.find(b"MQTT") + 4 :][:1] == b"\x05":
                source.sendall(self.answer)
                for one in (source, sink):
                    one.shutdown(socket.SHUT_RDWR)
                return
            sink.sendall(first)
        super()._carry(source, sink, answers)


def denying(folder: Path, *denied: str) -> Mosquitto:
    """Start a broker that lets everybody in and then denies them what its rules call `denied`."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("mosquitto's dynamic security is missing: apt-get install mosquitto")
    rights = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    rules = {"defaultACLAccess": {right: right not in denied for right in rights}}
    (folder / "rules.json").write_text(json.dumps(rules))
    more = f"allow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {folder}/rules.json"
    return Mosquitto(folder / "mosquitto", more).start()


def certificate(folder: Path, names: list[str]) -> tuple[Path, Path]:
    """Make a self-signed certificate for `names` and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    cert_gen = pytest.importorskip(
        "asyncua.crypto.cert_gen", reason="asyncua is missing: pip install 'line-worker[opcua]'"
    )
    key = cert_gen.generate_private_key()
    made = cert_gen.generate_self_signed_app_certificate(
        key, names[0], {}, [x509.DNSName(name) for name in names], [ExtendedKeyUsageOID.SERVER_AUTH]
    )
    (folder / "broker.key").write_bytes(cert_gen.dump_private_key_as_pem(key))
    (folder / "broker.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "broker.pem", folder / "broker.key"
