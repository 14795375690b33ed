"""Parts announced over HTTP: the verdict comes in the answer, a PASS only in time."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from line_worker.config import Config, parse
from line_worker.errors import ConfigError, SinkError
from line_worker.ports import free_port
from line_worker.sink import PartHere
from line_worker.sink.http import Http
from line_worker.sink.http.visits import GRACE_S, KEPT, Visits
from line_worker.supervisor import Supervisor
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire.messages import FrameKey, HubState, Outcome

D = 0.5
FIRST = 1000


def outcome(trigger: int, reason: Reason = Reason.NONE, camera: str = "top", left_ms: float = 400.0) -> Outcome:
    key = FrameKey("l", camera, 1, trigger)
    told = (1, key, str(verdict_of(reason)), int(reason), 0.5, 1.0, (), "b", "w", 1, "", trigger)
    return Outcome(*told, latency_ms=9.0, left_ms=left_ms, wall=0.0, stages={})


def state(beat: int) -> HubState:
    return HubState(1, beat, 2, "", "b", 0, 1, {})


@pytest.fixture
def visits() -> Visits:
    found = Visits(("top",), D, FIRST)
    found.beat(state(1), 10.0)
    return found


def told(visits: Visits, number: int, now: float) -> tuple[bool, str, str]:
    visit = visits.find(number)
    assert visit is not None
    answer = visits.answer(visit, now)
    return answer["decided"], answer["verdict"], answer["reason"]


def test_a_part_is_announced_once_and_answered(visits: Visits) -> None:
    first, again, other = (visits.announce("A", key, at) for key, at in (("k1", 10.0), ("k1", 10.1), ("", 10.2)))
    assert first is again is not None, "the client has repeated its request"
    assert other is not None
    assert (first.number, other.number) == (FIRST, FIRST + 1)
    assert visits.announce("B", "k1", 10.2) is None, "it is another part's"
    assert visits.take_asks() == [PartHere(FIRST, "A", 10.0), PartHere(FIRST + 1, "A", 10.2)]
    assert told(visits, FIRST, 10.1) == (False, "NO_DECISION", "NOT_RUNNING")
    visits.take(outcome(FIRST), 10.2)
    assert told(visits, FIRST, 10.3) == (True, "PASS", "NONE")
    visits.take(outcome(FIRST, Reason.ANOMALY), 10.3)
    assert told(visits, FIRST, 10.3) == (True, "PASS", "NONE"), "the first one stands"


def test_a_pass_counts_until_the_deadline_and_while_the_hub_is_heard(visits: Visits) -> None:
    visits.announce("", "", 10.0)
    visits.take(outcome(FIRST, left_ms=300.0), 10.1)
    assert told(visits, FIRST, 10.4) == (True, "PASS", "NONE")
    assert told(visits, FIRST, 10.41) == (True, "NO_DECISION", "DEADLINE")
    visits.announce("", "", 11.0)
    visits.take(outcome(FIRST + 1, left_ms=9000.0), 11.0)
    assert told(visits, FIRST + 1, 11.01) == (True, "NO_DECISION", "NOT_RUNNING")
    visits.beat(state(2), 11.1)
    assert told(visits, FIRST + 1, 11.2) == (True, "PASS", "NONE")


def test_a_reject_stays_one(visits: Visits) -> None:
    visits.announce("", "", 10.0)
    visits.take(outcome(FIRST, Reason.ANOMALY), 10.1)
    assert told(visits, FIRST, 99.0) == (True, "FAIL", "ANOMALY")


def test_no_outcome_is_no_decision_after_the_deadline(visits: Visits) -> None:
    visits.announce("", "", 10.0)
    assert told(visits, FIRST, 10.0 + D + GRACE_S)[0] is False
    assert told(visits, FIRST, 10.01 + D + GRACE_S) == (True, "NO_DECISION", "DEADLINE")


def test_all_that_look_at_the_part_must_pass() -> None:
    visits = Visits(("top", "side"), D, FIRST)
    visits.beat(state(1), 10.0)
    visits.announce("", "", 10.0)
    visits.take(outcome(FIRST), 10.1)
    visits.take(outcome(FIRST, Reason.ANOMALY, camera="elsewhere"), 10.1)
    assert told(visits, FIRST, 10.1) == (False, "NO_DECISION", "NOT_RUNNING")
    visits.take(outcome(FIRST, camera="side"), 10.1)
    assert told(visits, FIRST, 10.1) == (True, "PASS", "NONE")


def test_only_so_many_are_remembered(visits: Visits) -> None:
    for number in range(KEPT + 10):
        visits.announce("", f"k{number}", 10.0)
    assert visits.find(FIRST + 9) is None
    assert visits.find(FIRST + 10) is not None


# ---- over real sockets -----------------------------------------------------------------------------------------------


def config_in(folder: Path, **sink: Any) -> Config:
    source = {"kind": "synthetic", "part": "noise", "width": 160, "height": 120}
    trigger = {"kind": "sink", "sink": "http", "timeout_ms": 4000}
    camera = {"deadline_ms": 5000, "max_frame_mb": 1, "source": source, "trigger": trigger}
    line = {"name": f"t{os.getpid()}", "runtime": str(folder / "run"), "data": str(folder / "data"), "live": False}
    return parse(
        {
            "line": line,
            "cameras": [camera | {"name": "top"}, camera | {"name": "side"}],
            "parts": [{"name": "pairs", "cameras": ["top", "side"]}],
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "http", "port": free_port()} | sink],
        }
    )


class Said(NamedTuple):
    status: int
    body: Any


def ask(config: Config, method: str, path: str, body: object = None, **headers: str) -> Said:
    sink: Any = config.sinks[0]
    client = http.client.HTTPConnection(sink.host, sink.port, timeout=20)
    raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    client.request(method, path, raw, {"Content-Type": "application/json"} | headers)
    answer = client.getresponse()
    data = answer.read().decode()
    client.close()
    return Said(answer.status, json.loads(data) if answer.headers.get_content_type() == "application/json" else data)


@pytest.fixture
def served(short_path: Path) -> Iterator[tuple[Http, Config]]:
    token = short_path / "token"
    token.write_text("a-token-of-twenty-one")
    token.chmod(0o400)
    config = config_in(short_path, token_file=str(token))
    sink = Http(config.sinks[0], config)  # type: ignore[arg-type]
    sink.open()
    yield sink, config
    sink.close()


TOKEN = {"Authorization": "Bearer a-token-of-twenty-one"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "says"),
    [
        ("POST", "/parts", {}, {}, 401, "send Authorization"),
        ("GET", "/parts?trigger=1", None, {}, 401, "send Authorization"),
        ("GET", "/state", None, {}, 401, "send Authorization"),
        ("POST", "/parts", {}, TOKEN | {"Authorization": "Bearer wrong"}, 401, "send Authorization"),
        ("POST", "/parts", {}, TOKEN | {"Content-Type": "text/plain"}, 415, "application/json"),
        ("POST", "/parts", b"{", TOKEN, 400, "is no JSON; no part was announced"),
        ("POST", "/parts", [], TOKEN, 400, "no part was announced"),
        ("POST", "/parts", {"part_id": 5}, TOKEN, 400, "no part was announced"),
        ("POST", "/parts", {"part_id": "x" * 201}, TOKEN, 400, "no part was announced"),
        ("POST", "/parts", {"part": "x"}, TOKEN, 400, "no part was announced"),
        ("POST", "/parts", b"[" * 4000, TOKEN, 400, "no part was announced"),
        ("POST", "/parts", b'{"part_id": "\\ud800"}', TOKEN, 400, "no part was announced"),
        ("POST", "/parts", {}, TOKEN | {"Idempotency-Key": "x" * 201}, 400, "up to 200 characters"),
        ("POST", "/parts", {}, TOKEN | {"Transfer-Encoding": "chunked"}, 411, ""),
        ("GET", "/parts?trigger=1", None, TOKEN, 404, "no part of that number"),
        ("GET", "/parts?trigger=x", None, TOKEN, 404, "no part of that number"),
        ("DELETE", "/parts", None, TOKEN, 405, ""),
    ],
)
def test_what_cannot_be_is_refused_and_announces_nothing(
    served: tuple[Http, Config], method: str, path: str, body: object, headers: dict[str, str], status: int, says: str
) -> None:
    sink, config = served
    said = ask(config, method, path, body, **headers)
    assert said.status == status
    assert says in said.body
    assert sink.asks() == []


def test_a_request_that_waits_is_one_part(served: tuple[Http, Config]) -> None:
    sink, config = served
    answers: list[Said] = []
    client = threading.Thread(
        target=lambda: answers.append(ask(config, "POST", "/parts?wait=1", {"part_id": "A"}, **TOKEN))
    )
    client.start()
    parts: list[Any] = []
    until = time.monotonic() + 10
    while not parts and time.monotonic() < until:
        parts += sink.asks()
        time.sleep(0.01)
    time.sleep(0.05)  # the server asks its page again and again
    assert [(part.part_id, part.missed) for part in [*parts, *sink.asks()]] == [("A", False)]
    sink.beat(state(1), time.monotonic())
    sink.deliver(outcome(parts[0].number, camera="pairs", left_ms=60_000), time.monotonic())
    client.join(10)
    assert (answers[0].status, answers[0].body["verdict"], answers[0].body["part_id"]) == (200, "PASS", "A")


def test_a_key_belongs_to_one_part(served: tuple[Http, Config]) -> None:
    sink, config = served
    said = [ask(config, "POST", "/parts", {"part_id": part}, **TOKEN, **{"Idempotency-Key": "k"}) for part in "AAB"]
    assert [one.status for one in said] == [202, 202, 422]
    assert said[0].body == said[1].body
    assert [part.part_id for part in sink.asks()] == ["A"]  # type: ignore[union-attr]


def test_silent_connections_do_not_cut_off_one_that_waits(served: tuple[Http, Config]) -> None:
    sink, config = served
    answers: list[Said] = []
    client = threading.Thread(target=lambda: answers.append(ask(config, "POST", "/parts?wait=1", {}, **TOKEN)))
    client.start()
    until = time.monotonic() + 10
    parts: list[Any] = []
    while not parts and time.monotonic() < until:
        parts += sink.asks()
        time.sleep(0.01)
    silent = [socket.create_connection(("127.0.0.1", config.sinks[0].port)) for _ in range(40)]  # type: ignore[union-attr]
    time.sleep(0.1)
    sink.deliver(outcome(parts[0].number, Reason.ANOMALY, camera="pairs"), time.monotonic())
    client.join(10)
    for connection in silent:
        connection.close()
    assert [said.body["verdict"] for said in answers] == ["FAIL"]


def test_on_loopback_it_answers_to_its_own_name_only(short_path: Path) -> None:
    config = config_in(short_path)
    sink = Http(config.sinks[0], config)  # type: ignore[arg-type]
    sink.open()
    assert ask(config, "POST", "/parts", {}, Host="evil.example").status == 403
    assert ask(config, "POST", "/parts", {}).status == 202
    sink.close()


def test_without_a_camera_nothing_passes() -> None:
    visits = Visits((), D, FIRST)
    visits.beat(state(1), 10.0)
    visits.announce("", "", 10.0)
    assert told(visits, FIRST, 10.0) == (True, "NO_DECISION", "NOT_RUNNING")


def test_a_taken_port_says_so(served: tuple[Http, Config]) -> None:
    _, config = served
    with pytest.raises(SinkError, match=r"cannot be bound .* no part can be announced"):
        Http(config.sinks[0], config).open()  # type: ignore[arg-type]


def test_off_loopback_it_needs_a_token_and_tls(short_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs token_file, certificate and private_key"):
        config_in(short_path, host="0.0.0.0")


def test_the_verdict_comes_in_the_answer(short_path: Path) -> None:
    config = config_in(short_path)
    line = Supervisor(config, log_path=short_path / "line.log")
    line.start()

    def until(ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < end, (short_path / "line.log").read_text()[-3000:]
            line.turn(0.01)

    def is_running() -> bool:
        try:
            return bool(ask(config, "GET", "/state").body["state"] == "RUNNING")
        except OSError:
            return False

    try:
        until(is_running)
        answers: list[Said] = []
        for number in range(5):
            client = threading.Thread(
                target=lambda n=number: answers.append(ask(config, "POST", "/parts?wait=1", {"part_id": f"P{n}"}))  # type: ignore[misc]
            )
            client.start()
            until(lambda n=number: len(answers) > n)  # type: ignore[misc]
        assert [(said.status, said.body["part_id"], said.body["verdict"]) for said in answers] == [
            (200, f"P{number}", "PASS") for number in range(5)
        ]
        assert {result["camera"] for said in answers for result in said.body["results"]} == {"pairs"}
        said = ask(config, "POST", "/parts", {"part_id": "Q"})
        assert said.status == 202
        until(lambda: bool(ask(config, "GET", f"/parts?trigger={said.body['trigger']}").body["results"]))
    finally:
        assert line.stop() == 0
