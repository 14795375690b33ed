"""The configuration: checked whole, every problem at once, in words that say what to do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from line_worker.config import Config, load, parse
from line_worker.errors import ConfigError

WHOLE: dict[str, Any] = {
    "line": {"name": "line-1", "runtime": "run", "data": "data"},
    "cameras": [
        {"name": "top", "deadline_ms": 500, "source": {"kind": "folder", "path": "images"}},
        {
            "name": "side",
            "deadline_ms": 80.5,
            "transport": "inline",
            "source": {"kind": "camera", "device": "rtsp://u:p@h/1"},
        },
        {"name": "back", "deadline_ms": 100, "source": {"kind": "replay", "path": "~/rec.mcap", "rate": 12}},
    ],
    "workers": {"bundle": "screw.bundle", "count": 2},
    "sinks": [{"kind": "plc", "simulate": True}, {"kind": "store"}, {"kind": "log", "path": "/var/log/line.jsonl"}],
}
Change = Callable[[dict[str, Any]], None]


def changed(change: Change) -> dict[str, Any]:
    raw = copy.deepcopy(WHOLE)
    change(raw)
    return raw


def problems(change: Change, base: Path = Path("/")) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse(changed(change), base=base)
    assert str(error.value).count("\n") == len(error.value.problems)
    return error.value.problems


def put(path: str, value: Any) -> Change:
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))

    def change(raw: dict[str, Any]) -> None:
        node: Any = raw
        for key in way:
            node = node[key]
        node[last] = value

    return change


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = parse(WHOLE, base=Path("/srv/line"))
    assert config.line.runtime == Path("/srv/line/run")
    assert config.workers.bundle == Path("/srv/line/screw.bundle")
    assert str(config.cameras[0].source.path) == "/srv/line/images"  # type: ignore[union-attr]
    assert str(config.cameras[2].source.path) == "/home/somebody/rec.mcap"  # type: ignore[union-attr]
    assert config.sinks[2].path == Path("/var/log/line.jsonl")  # type: ignore[union-attr]
    assert (config.journal_path, config.store_path) == (
        Path("/srv/line/data/journal.sqlite"),
        Path("/srv/line/data/store"),
    )


def test_what_serve_leaves_for_its_children_is_the_same_configuration(short_path: Path) -> None:
    config = parse(WHOLE, base=short_path)
    path = short_path / "elsewhere" / "config.json"
    path.parent.mkdir()
    path.write_text(config.model_dump_json(), "utf-8")
    assert load(path) == config


def test_the_stub_stays_the_stub_and_a_bundle_of_that_name_does_not(short_path: Path) -> None:
    stub = parse(changed(put("workers.bundle", "stub")), base=short_path)
    assert stub.workers.stub
    assert parse(json.loads(stub.model_dump_json())).workers.stub
    for path in ("bundles/stub", "/opt/stub"):
        config = parse(changed(put("workers.bundle", path)), base=short_path)
        assert not config.workers.stub
        assert config.workers.bundle == short_path / path
    assert parse(changed(put("line.data", "stub")), base=short_path).line.data == short_path / "stub"


def test_every_problem_is_named_at_once() -> None:
    def spoil(raw: dict[str, Any]) -> None:
        raw["line"]["name"] = "a b"
        raw["line"]["colour"] = "red"
        raw["cameras"][0]["deadline_ms"] = -1
        raw["cameras"][1]["source"]["kind"] = "camra"
        del raw["cameras"][2]["source"]["path"]
        raw["workers"]["device"] = "gpu"
        raw["sinks"][2]["name"] = "store"
        raw["camera"] = {}

    found = problems(spoil)
    assert [problem.split(":")[0] for problem in found] == [
        "line.name = 'a b'",
        "line.colour",
        "cameras[1].deadline_ms = -1",
        "cameras[2].source.kind",
        "cameras[3].source.path",
        "workers.device = 'gpu'",
        "camera",
        "sinks",
    ]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "line.nmae",
            "x",
            "line.nmae: unknown key; did you mean 'name'? (allowed: name, runtime, data, tcp, keys, metrics,",
        ),
        (
            "camera",
            [],
            "camera: unknown key; did you mean 'cameras'? (allowed: line, cameras, parts, workers, recipes, sinks)",
        ),
        ("cameras.0.source.pth", 1, "cameras[1].source.pth: unknown key; did you mean 'path'? (allowed: kind, path,"),
        ("sinks.0.prot", 1, "sinks[1].prot: unknown key; did you mean 'port'?"),
        (
            "cameras.0.source.kind",
            "foldr",
            "cameras[1].source.kind: 'foldr' is unknown; did you mean 'folder'? (allowed: f",
        ),
        ("cameras.0.source", {"path": "x"}, "cameras[1].source.kind: is missing and must be given"),
        ("sinks.0.mode", "slave", "sinks[1].mode = 'slave': should be 'server' or 'client'"),
        (
            "cameras.2.source.rate",
            "fast",
            "cameras[3].source.rate = 'fast': should be 'recorded' or 'max'; or should be a",
        ),
        ("cameras.0.source.rate", float("inf"), "cameras[1].source.rate = inf: should be a finite number"),
        ("cameras.0.deadline_ms", float("nan"), "cameras[1].deadline_ms = nan: should be"),
        ("cameras.0.name", "../up", "cameras[1].name = '../up': should match"),
        (
            "line.tcp",
            "0.0.0.0:5000",
            "line.tcp = '0.0.0.0:5000': other hosts can reach it, which needs keys: make them",
        ),
        ("line.tcp", "pc1.plant:5000", "[line.keys] dir"),
        ("line.tcp", "nonsense", "line.tcp = 'nonsense': should match"),
        ("line.keys", {"dir": "keys"}, 'line.keys: nothing uses them; set line.tcp = "HOST:PORT", or leave them out'),
        ("line.tcp", "localhost:65534", "line.tcp = 'localhost:65534': the port should be between 1 and 65532"),
        ("line.metrics", "0.0.0.0:9464", "line.metrics = '0.0.0.0:9464': should match"),
        ("line.metrics", "[::]:9464", "should match"),
        ("line.metrics", "localhost:65536", "the port should be between 1 and 65535"),
        ("line.runtime", "r" * 95, "too long for socket files, at most 90 characters"),
        ("cameras.1.name", "top", "cameras: the name 'top' is used twice; every one needs its own"),
        (
            "sinks.2",
            {"kind": "plc", "port": 5021, "simulate": True},
            "sinks: the name 'plc' is used twice; every one needs its own",
        ),
        ("sinks.2", {"kind": "store", "name": "two"}, "sinks: one store is allowed, it owns the crops"),
        (
            "sinks.0",
            {"kind": "plc"},
            "'plc' drives a PLC, and a camera is a replay; take it out, or set simulate = true",
        ),
        (
            "sinks.2",
            {"kind": "s7", "host": "plc", "db": 1},
            "'s7' drives a PLC, and a camera is a replay; take it out",
        ),
        ("sinks.2", {"kind": "opcua"}, "'opcua' drives a PLC, and a camera is a replay; take it out, or set handshake"),
        (
            "sinks.2",
            {"kind": "opcua", "certificate": "c.der", "handshake": False},
            "certificate, private_key and trusted go together",
        ),
        (
            "sinks.2",
            {"kind": "opcua", "port": 5020, "handshake": False},
            "both use 127.0.0.1:5020, where only one server can listen",
        ),
        ("sinks.2", {"kind": "mqtt", "prefix": "a/#"}, "sinks[3].prefix = 'a/#': should match"),
        ("sinks.2", {"kind": "mqtt", "ca": "ca.pem"}, "ca and certificate are of no use without tls = true"),
        ("sinks.2", {"kind": "mqtt", "password_file": "p"}, "password_file is of no use without username"),
        ("sinks.2", {"kind": "mqtt", "tls": True, "certificate": "c"}, "certificate and private_key go together"),
        (
            "sinks.2",
            {"kind": "mqtt", "host": "broker.plant", "username": "u", "password_file": "p"},
            "the password would cross the network in the clear; set tls = true",
        ),
        ("sinks.2", {"kind": "webhook", "url": "http://a.plant"}, "sinks[3].secret_file: is missing and must be given"),
        (
            "sinks.2",
            {"kind": "webhook", "url": "ftp://a", "secret_file": "s"},
            "sinks[3].url = 'ftp://a': should match",
        ),
        ("sinks.2", {"kind": "webhook", "url": "http://u:p@a/", "secret_file": "s"}, "should match"),
        ("sinks.2", {"kind": "webhook", "url": "http://a:70000", "secret_file": "s"}, "ort out of range 0-65535"),
        ("workers.bundle", 5, "workers.bundle = 5: should be a text, in quotes"),
        ("workers.count", "2", "workers.count = '2': should be a whole number, without quotes"),
        ("cameras.0.deadline_ms", "300", "cameras[1].deadline_ms = '300': should be a number, without quotes"),
        ("cameras.0.deadline_ms", True, "cameras[1].deadline_ms = True: should be a valid number"),
        ("line.live", "yes", "line.live = 'yes': should be true or false, without quotes"),
        ("line.live", 1, "line.live = 1: should be true or false, without quotes"),
        ("cameras", [], "cameras: at least one must be given"),
        ("workers", None, "workers"),
    ],
)
def test_each_problem_says_what_is_allowed(path: str, value: Any, says: str) -> None:
    found = problems(put(path, value))
    assert len(found) == 1, found
    assert says in found[0]


def test_a_faulty_camera_does_not_make_the_list_of_cameras_faulty() -> None:
    def spoil(raw: dict[str, Any]) -> None:
        raw["cameras"] = [raw["cameras"][0] | {"window": 0}]

    assert problems(spoil) == ["cameras[1].window = 0: should be greater than or equal to 1"]


def test_no_password_is_shown() -> None:
    found = problems(put("cameras.1.source.device", ["rtsp://user:secret@host/1"]))
    found += problems(put("cameras.1.source.colour", "rtsp://user:secret@host/1"))
    assert "secret" not in "".join(found)
    assert "rtsp://host/1" in found[-1]
    assert "rtsp://h/1" in parse(WHOLE, base=Path("/")).public_json()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "line = [", "is not TOML"),
        ("a.json", "{", "is not JSON"),
        ("a.toml", b"\xff\xfe", "cannot be read"),
        ("missing.toml", None, "cannot be read.*give the path of a line.toml"),
        ("a.json", "[1]", "holds no tables"),
        ("a.json", '{"line": 3, "cameras": 4, "sinks": {"kind": "log"}}', "line = 3"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | bytes | None, says: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=f"(?s)^{path}: .*{says}"):
        load(path)


def test_a_line_toml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(
        '[line]\nname = "l"\nruntime = "r"\ndata = "d"\n[workers]\nbundle = "stub"\n'
        '[[cameras]]\nname = "c"\ndeadline_ms = 100\nsource = {kind = "synthetic"}\n'
    )
    config = load(path)
    assert isinstance(config, Config)
    assert (config.cameras[0].window, config.cameras[0].ring_slots, config.frame_bytes) == (16, 34, 4_000_000)


def test_several_hosts_need_keys_and_one_does_not(short_path: Path) -> None:
    def with_line(**line: Any) -> Config:
        return parse(changed(lambda raw: raw["line"].update(line)), base=short_path)

    assert with_line(tcp="127.0.0.1:5600").line.keys is None
    keys = with_line(tcp="0.0.0.0:5600", keys={"dir": "keys", "source": "source-pc2"}).line.keys
    assert keys is not None
    assert (keys.dir, keys.hub, keys.source) == (short_path / "keys", "hub", "source-pc2")


def test_a_camera_s_checks_are_off_until_they_are_asked_for() -> None:
    camera = parse(WHOLE, base=Path("/srv")).cameras[0]
    assert (camera.frozen, camera.canary_every_s, camera.challenge_every_s) == ("refuse", 0, 0)
    rules = camera.rules
    assert (rules.rejects_in_row, rules.undecided_in_row, rules.reject_rate, rules.silent_window) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("cameras.0.frozen", "ignore", "should be 'refuse' or 'allow'"),
        ("cameras.0.canary_every_s", -1, "greater than or equal to 0"),
        ("cameras.0.challenge_overdue", "shout", "should be 'warn' or 'stop'"),
        ("cameras.0.rules", {"reject_rate": 1.0}, "less than 1"),
        ("cameras.0.rules", {"rejects_in_a_row": 3}, "did you mean 'rejects_in_row'?"),
    ],
)
def test_what_the_checks_may_be(path: str, value: Any, words: str) -> None:
    [problem] = problems(put(path, value))
    assert words in problem


@pytest.mark.parametrize(
    "sink",
    [
        {"kind": "sparkplug"},
        {"kind": "nats"},
        {"kind": "kafka"},
        {"kind": "gpio", "pass_line": 1},
        {"kind": "ethernet-ip", "host": "plc", "slot": "none"},
        {"kind": "opcua-client", "url": "opc.tcp://plc", "nodes": "ns=2;s={name}"},
    ],
)
def test_a_sink_survives_the_way_to_another_process(sink: dict[str, Any]) -> None:
    raw = WHOLE | {"cameras": WHOLE["cameras"][:1], "sinks": [sink]}
    config = parse(raw)
    assert parse(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ({"kind": "gige", "device": "LW7"}, True),
        ({"kind": "gige"}, True),
        ({"kind": "genicam", "producer": "/opt/p.cti", "device": "LW7"}, True),
        ({"kind": "camera", "device": 0}, True),
        ({"kind": "camera", "device": "rtsp://host/1"}, False),
        ({"kind": "folder", "path": "images"}, False),
    ],
)
def test_one_device_is_not_two_cameras(source: dict[str, Any], same: bool) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["cameras"][0]["source"] = raw["cameras"][2]["source"] = source

    if not same:
        parse(changed(change), base=Path("/"))
        return
    [problem] = problems(change)
    assert problem.startswith("cameras: 'top' and 'back' are the same device")
    assert "give each its own `device`" in problem
