"""The MQTT sink against a real broker, mosquitto: names, last will, TLS, and brokers that die, stop and come back."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from left_behind import leave_broker
from line_worker.config import Config, parse
from line_worker.errors import SinkError
from line_worker.sink.mqtt import Mqtt
from line_worker.wire.messages import FrameKey, HubState, Outcome
from mqtt_broker import HOST, MOSQUITTO, Mosquitto, Older, certificate
from plc_station import wait_for

pytest.importorskip("paho.mqtt", reason="paho-mqtt is missing: pip install 'line-worker[mqtt]'")
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is missing: apt-get install mosquitto")


def outcome(seq: int, *, reason: int = 0, camera: str = "top") -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    return Outcome(
        *(seq + 1, FrameKey("line-1", camera, 7, seq), verdict, reason, 0.5, 1.0, (), "beef" * 16, "w", 1),
        *(f"part-{seq}", seq, 10.0, 400.0, 1.7e9 + seq, {"score": 3.0}),
    )


def line(port: int, **sink: Any) -> Config:
    settings = {"kind": "mqtt", "host": HOST, "port": port} | sink
    camera = {"name": "top", "deadline_ms": 500, "source": {"kind": "camera", "device": 0}}
    return parse(
        {
            "line": {"name": "line-1", "runtime": "run", "data": "data"},
            "cameras": [camera],
            "workers": {"bundle": "some.bundle"},
            "sinks": [settings],
        }
    )


def sink_of(config: Config) -> Mqtt:
    return Mqtt(config.sinks[0], config)  # type: ignore[arg-type]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path / "mosquitto").start()
    yield running
    running.kill()


@dataclass
class Subscriber:
    """Hears everything under `line-worker/`; the broker keeps for it what comes while it is away."""

    port: int
    name: str = "subscriber"
    heard: list[tuple[str, Any, bool]] = field(default_factory=list)

    def __enter__(self) -> Subscriber:
        there = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, self.name, clean_session=False)
        self.client.on_connect = lambda *_: self.client.subscribe("line-worker/#", qos=1)
        self.client.on_subscribe = lambda *_: there.set()
        self.client.on_message = self._hear
        self.client.reconnect_delay_set(0.1, 0.2)
        self.client.connect(HOST, self.port)
        self.client.loop_start()
        assert there.wait(10)
        return self

    def _hear(self, client: Client, data: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, json.loads(message.payload), message.retain))

    def __exit__(self, *error: object) -> None:
        leave_broker(self.client)

    def last(self, topic: str) -> Any:
        return next((found for where, found, _ in reversed(self.heard) if where == topic), None)

    def runs(self) -> dict[str, set[int]]:
        """Return the numbers of the results by the camera's run."""
        found: dict[str, set[int]] = {}
        for where, result, _ in self.heard:
            if where.endswith("/result"):
                found.setdefault(result["JobId"]["Id"], set()).add(int(result["MeasId"]["Id"]))
        return found

    def seqs(self) -> list[int]:
        return [int(found["MeasId"]["Id"]) for where, found, _ in self.heard if where.endswith("/result")]


@pytest.fixture
def sink(broker: Mosquitto) -> Iterator[Mqtt]:
    found = sink_of(line(broker.port))
    found.open()
    yield found
    found.close()


# ---- what arrives ----------------------------------------------------------------------------------------------------


def test_an_outcome_arrives_with_the_names_of_opc_40100(broker: Mosquitto, sink: Mqtt) -> None:
    with Subscriber(broker.port) as peer:
        sink.deliver(outcome(4, reason=52), 0.0)
        sink.settle()
        wait_for(lambda: peer.last("line-worker/line-1/top/result") is not None)
    found = peer.last("line-worker/line-1/top/result")
    assert found["ResultId"] == {"Id": "line-1/top/7/4"}
    assert (found["PartId"], found["JobId"]) == ({"Id": "part-4"}, {"Id": "top/7"})
    assert (found["InternalRecipeId"], found["IsSimulated"], found["ResultState"]) == ({"Id": "beef" * 16}, False, 4)
    times = {"StartTime": "2023-11-14T22:13:23.990Z", "EndTime": "2023-11-14T22:13:24.000Z", "ProcessingDuration": 3.0}
    assert (found["ProcessingTimes"], found["CreationTime"]) == (times, times["EndTime"])
    content = found["ResultContent"][0]
    assert (content["Verdict"], content["Reason"], content["Score"]) == ("NO_DECISION", "EXPOSURE", 0.5)


def test_state_and_presence_are_retained_for_those_who_come_later(broker: Mosquitto, sink: Mqtt) -> None:
    sink.beat(HubState(1, 1, 2, "all is well", "beef" * 16, 0, 1, {}), 10.0)
    sink.poll(10.0)
    sink.deliver(outcome(0), 10.0)
    sink.settle()
    with Subscriber(broker.port) as peer:
        wait_for(lambda: len(peer.heard) >= 2)
        assert all(retained for _, _, retained in peer.heard)
        assert peer.last("line-worker/line-1/online") == {"Online": True}
        state = peer.last("line-worker/line-1/state")
        assert (state["VisionStateMachine"], state["AutomaticModeStateMachine"]) == (
            "Operational",
            "ContinuousExecution",
        )
        assert (state["Cause"], state["StopLine"]) == ("all is well", "NONE")
        sink.poll(12.0)  # the hub has said nothing for two seconds
        wait_for(lambda: peer.last("line-worker/line-1/state")["VisionStateMachine"] == "Error")
        assert peer.last("line-worker/line-1/state")["Cause"] == "the hub is silent"
        sink.beat(HubState(1, 2, 2, "", "beef" * 16, 0, 1, {}), 13.0)
        sink.poll(13.0)
        wait_for(lambda: peer.last("line-worker/line-1/state")["VisionStateMachine"] == "Operational")


def test_who_leaves_says_so(broker: Mosquitto, sink: Mqtt) -> None:
    with Subscriber(broker.port) as peer:
        wait_for(lambda: peer.last("line-worker/line-1/online") == {"Online": True})
        sink.close()
        wait_for(lambda: peer.last("line-worker/line-1/online") == {"Online": False})


def test_of_one_that_was_killed_the_broker_says_so(broker: Mosquitto) -> None:
    code = (
        "import json, sys, time\n"
        "from line_worker.config import parse\n"
        "from line_worker.sink.mqtt import Mqtt\n"
        "config = parse(json.loads(sys.argv[1]))\n"
        "sink = Mqtt(config.sinks[0], config)\n"
        "sink.open()\n"
        "time.sleep(60)\n"
    )
    with Subscriber(broker.port) as peer:
        process = subprocess.Popen([sys.executable, "-c", code, line(broker.port).model_dump_json()])
        wait_for(lambda: peer.last("line-worker/line-1/online") == {"Online": True})
        process.kill()
        process.wait()
        wait_for(lambda: peer.last("line-worker/line-1/online") == {"Online": False})


def test_it_keeps_up_with_200_outcomes_a_second(broker: Mosquitto, sink: Mqtt) -> None:
    start = time.monotonic()
    for first in range(0, 400, 50):
        for seq in range(first, first + 50):
            sink.deliver(outcome(seq), 0.0)
        sink.settle()
    assert time.monotonic() - start < 2


# ---- outages ---------------------------------------------------------------------------------------------------------


def test_a_broker_that_was_killed_costs_nothing(broker: Mosquitto, sink: Mqtt) -> None:
    with Subscriber(broker.port) as peer:
        sink.deliver(outcome(0), 0.0)
        sink.settle()
        wait_for(lambda: peer.seqs() == [0])
        time.sleep(1.5)  # mosquitto writes once a second what it knows of its subscribers
        broker.kill()
        wait_for(lambda: not sink.reachable()[0])
        with pytest.raises(SinkError, match=rf"MQTT broker {HOST}:{broker.port}: cannot be reached.*stay with the hub"):
            sink.deliver(outcome(1), 0.0)
        assert "cannot be reached" in sink.reachable()[1]
        broker.start()
        sink.deliver(outcome(1), 0.0)
        sink.settle()
        wait_for(lambda: set(peer.seqs()) == {0, 1})
        assert sink.reachable() == (True, "")


def test_without_anything_to_send_it_comes_back_all_the_same(broker: Mosquitto, sink: Mqtt) -> None:
    broker.kill()
    wait_for(lambda: not sink.reachable()[0])
    sink.poll(time.monotonic())
    broker.start()
    wait_for(lambda: sink.poll(time.monotonic()) is None and sink.reachable() == (True, ""))  # type: ignore[func-returns-value]


def test_a_broker_that_is_stopped_confirms_nothing_and_nothing_counts_as_delivered(
    broker: Mosquitto, sink: Mqtt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("line_worker.sink.mqtt.broker.CONFIRM_S", 0.5)
    monkeypatch.setattr("line_worker.sink.mqtt.broker.CONNECT_S", 0.5)
    broker.send(signal.SIGSTOP)
    sink.deliver(outcome(0), 0.0)
    start = time.monotonic()
    with pytest.raises(SinkError, match="has not confirmed everything within"):
        sink.settle()
    with pytest.raises(SinkError, match="does not answer within"):
        sink.deliver(outcome(0), 0.0)
    assert time.monotonic() - start < 5
    broker.send(signal.SIGCONT)
    sink.deliver(outcome(0), 0.0)
    sink.settle()


def test_a_broker_that_stops_while_nothing_is_sent_is_noticed(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("line_worker.sink.mqtt.broker.KEEPALIVE_S", 1)
    found = sink_of(line(broker.port))
    found.open()
    broker.send(signal.SIGSTOP)
    wait_for(lambda: not found.reachable()[0])
    assert "the connection was lost" in found.reachable()[1]
    broker.send(signal.SIGCONT)
    found.close()


def test_a_listener_that_never_answers_is_told_and_closing_stays_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("line_worker.sink.mqtt.broker.CONNECT_S", 0.5)
    with socket.create_server((HOST, 0)) as mute:
        found = sink_of(line(mute.getsockname()[1]))
        with pytest.raises(SinkError, match="does not answer within"):
            found.open()
        start = time.monotonic()
        found.close()
        assert time.monotonic() - start < 2


LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", parts = 250, rate = 50, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
kind = "mqtt"
port = {port}
"""


def test_a_line_whose_broker_is_down_for_a_while_loses_nothing(short_path: Path, broker: Mosquitto) -> None:
    (short_path / "line.toml").write_text(LINE_TOML.format(folder=short_path, port=broker.port))
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")]
    with Subscriber(broker.port) as peer:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: len(peer.seqs()) > 50, 60)
            broker.kill()
            time.sleep(1.5)
            assert process.poll() is None
            broker.start()
            _, told = process.communicate(timeout=60)
            assert process.returncode == 0, told[-2000:]
            wait_for(lambda: set(peer.seqs()) == set(range(250)), 30)
        finally:
            process.kill()
            process.communicate()
    results = [found for where, found, _ in peer.heard if where.endswith("/result")]
    assert {one["ResultContent"][0]["Verdict"] for one in results} == {"PASS"}
    assert all(one["IsSimulated"] for one in results)


@pytest.mark.long
def test_what_a_line_could_not_send_before_it_was_stopped_goes_out_after_its_next_start(
    short_path: Path, broker: Mosquitto
) -> None:
    text = LINE_TOML.format(folder=short_path, port=broker.port).replace("parts = 250", "parts = 50")
    (short_path / "line.toml").write_text(text)
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")]
    with Subscriber(broker.port) as peer:
        time.sleep(1.5)  # mosquitto writes once a second what it knows of its subscribers
        broker.kill()
        first = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert first.returncode == 0, first.stderr[-2000:]
        broker.start()
        second = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert second.returncode == 0, second.stderr[-2000:]
        wait_for(lambda: len(peer.runs()) == 2 and all(found == set(range(50)) for found in peer.runs().values()))


# ---- versions and rules ----------------------------------------------------------------------------------------------


def test_what_the_brokers_rules_forbid_does_not_count_as_delivered(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("topic readwrite line-worker/line-1/top/result\n")
    (tmp_path / "rules").chmod(0o400)
    running = Mosquitto(tmp_path / "mosquitto", f"allow_anonymous true\nacl_file {tmp_path}/rules").start()
    found = sink_of(line(running.port))
    try:
        found.open()
        for _ in range(2):
            for camera in ("top", "side"):
                found.deliver(outcome(0, camera=camera), 0.0)
            with pytest.raises(SinkError, match=r"does not let us publish \(Not authorized\).*the broker's rules"):
                found.settle()
        assert found.duplicates == 1, "what it has is not sent again"
    finally:
        found.close()
        running.kill()


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b""], ids=["it says so", "it hangs up"])
def test_a_broker_that_does_not_speak_mqtt_5_is_spoken_to_as_it_can_and_that_is_said_once(
    broker: Mosquitto, answer: bytes
) -> None:
    with Older(broker.port) as older, Subscriber(broker.port) as peer, capture_logs() as logs:
        older.answer = answer
        found = sink_of(line(older.port))
        found.open()
        found.deliver(outcome(0), 0.0)
        found.settle()
        broker.kill()
        wait_for(lambda: not found.reachable()[0])
        broker.start()
        found.deliver(outcome(1), 0.0)
        found.settle()
        wait_for(lambda: 1 in peer.seqs())
        found.close()
    assert [one["log_level"] for one in logs if "3.1.1" in one["event"]] == ["warning"]


def test_no_more_is_on_its_way_than_the_broker_takes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("line_worker.sink.mqtt.broker.CONFIRM_S", 0.5)
    running = Mosquitto(tmp_path / "mosquitto", "allow_anonymous true\nmax_inflight_messages 3").start()
    found = sink_of(line(running.port))
    try:
        found.open()
        for seq in range(10):
            found.deliver(outcome(seq), 0.0)
        found.settle()
        running.send(signal.SIGSTOP)
        for seq in range(10, 13):
            found.deliver(outcome(seq), 0.0)
        with pytest.raises(SinkError, match="has not confirmed everything within"):
            found.deliver(outcome(13), 0.0)
        running.send(signal.SIGCONT)
    finally:
        found.close()
        running.kill()


# ---- TLS and passwords -----------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Mosquitto]:
    cert, key = certificate(tmp_path, ["localhost"])
    more = f"certfile {cert}\nkeyfile {key}\nallow_anonymous true"
    running = Mosquitto(tmp_path / "mosquitto", more).start()
    yield running
    running.kill()


def test_over_tls_to_the_name_in_the_certificate(tls: Mosquitto, tmp_path: Path) -> None:
    found = sink_of(line(tls.port, host="localhost", tls=True, ca=str(tmp_path / "broker.pem")))
    found.open()
    found.deliver(outcome(0), 0.0)
    found.settle()
    assert found.reachable() == (True, "")
    found.close()


def test_another_name_than_the_certificates_is_refused(tls: Mosquitto, tmp_path: Path) -> None:
    found = sink_of(line(tls.port, host=HOST, tls=True, ca=str(tmp_path / "broker.pem")))
    with pytest.raises(SinkError, match=r"certificate is not accepted: IP address mismatch.*set host to a name in"):
        found.open()
    found.close()


def test_doctor_finds_that_before_the_line_starts(tls: Mosquitto, tmp_path: Path) -> None:
    from line_worker.doctor.plant import plant_checks

    for host, words in (("localhost", "can be reached"), (HOST, "certificate is not accepted (IP address mismatch")):
        found = line(tls.port, host=host, tls=True, ca=str(tmp_path / "broker.pem"))
        [(_, check)] = plant_checks(found, running=True)
        [finding] = check()
        assert words in finding.text


def test_a_broker_that_wants_tls_and_hangs_up_is_said_so(tls: Mosquitto) -> None:
    found = sink_of(line(tls.port))
    with pytest.raises(SinkError, match=r"closes the connection without an answer.*check .*port"):
        found.open()
    found.close()


def test_a_certificate_that_nobody_we_trust_has_signed_is_refused(tls: Mosquitto) -> None:
    found = sink_of(line(tls.port, host="localhost", tls=True))
    with pytest.raises(SinkError, match="certificate is not accepted: self-signed certificate"):
        found.open()
    found.close()


def test_a_broker_without_tls_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, ["localhost"])
    found = sink_of(line(broker.port, host="localhost", tls=True, ca=str(cert)))
    with pytest.raises(SinkError, match=rf"MQTT broker localhost:{broker.port}: cannot be reached"):
        found.open()
    found.close()


def test_a_ca_that_cannot_be_read_is_said_so(broker: Mosquitto, tmp_path: Path) -> None:
    found = sink_of(line(broker.port, tls=True, ca=str(tmp_path / "none.pem")))
    with pytest.raises(SinkError, match="a certificate of ours cannot be used"):
        found.open()


def test_a_wrong_password_is_said_so_and_the_right_one_is_read_from_its_file(tmp_path: Path) -> None:
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    passwd = shutil.which("mosquitto_passwd")
    assert passwd is not None
    subprocess.run([passwd, "-b", "-c", str(passwords), "station", "right"], check=True, capture_output=True)
    running = Mosquitto(tmp_path / "mosquitto", f"allow_anonymous false\npassword_file {passwords}").start()
    try:
        for written, mode, says in (
            ("wrong", 0o400, "refuses us: Not authorized"),
            ("right", 0o444, "open to others"),
            ("", 0o400, "is empty"),
        ):
            secret.unlink(missing_ok=True)
            secret.write_text(written)
            secret.chmod(mode)
            found = sink_of(line(running.port, username="station", password_file=str(secret)))
            with pytest.raises(SinkError, match=says):
                found.open()
            found.close()
        secret.unlink()
        secret.write_text("right\n")
        secret.chmod(0o400)
        found = sink_of(line(running.port, username="station", password_file=str(secret)))
        found.open()
        assert found.reachable() == (True, "")
        found.close()
    finally:
        running.kill()


def test_without_paho_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.mqtt.broker", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[mqtt\]"):
        sink_of(line(1883)).open()
