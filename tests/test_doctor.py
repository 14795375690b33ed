"""The doctor, on stations that are really broken: each finding names what is wrong and what to do."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker.config import Config, parse
from line_worker.doctor import Finding, Level, host, keys, model, ok, plant, ways
from line_worker.doctor.run import examine, run, within
from line_worker.errors import SinkError
from line_worker.health import only_one
from line_worker.hub.journal import SCHEMA_VERSION
from line_worker.images import save_png
from line_worker.ports import free_port
from line_worker.sink.store import FILE, Store
from line_worker.wire.keys import create

SYNTHETIC = {"kind": "synthetic", "width": 320, "height": 240}


def raw(folder: Path, **more: Any) -> dict[str, Any]:
    line = {"name": "doc", "runtime": str(folder / "run"), "data": str(folder / "data")}
    camera = {"name": "cam", "deadline_ms": 5000, "max_frame_mb": 0.2, "source": SYNTHETIC}
    return {
        "line": line | more.pop("line", {}),
        "cameras": [camera | more.pop("camera", {})],
        "workers": {"bundle": "stub"} | more.pop("workers", {}),
        **more,
    }


def station(folder: Path, **more: Any) -> Config:
    return parse(raw(folder, **more))


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_a_station_that_is_well_has_no_errors(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = short_path / "line.json"
    path.write_text(json.dumps(raw(short_path, sinks=[{"kind": "log", "path": str(short_path / "log.jsonl")}])))
    assert run(path, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    checks = {finding["check"]: finding["level"] for finding in told["findings"]}
    assert told["ok"] is True
    assert set(checks) >= {"configuration", "bundle", "device", "camera cam", "data", "sink log", "journal disk"}
    assert set(checks) >= {"shared memory", "memory", "runtime", "priority", "clock", "wall clock", "journal"}
    assert checks["bundle"] == "warning", "a stub judges nothing"
    assert sorted(p.name for p in short_path.iterdir()) == ["line.json"], "it changes nothing"


def test_every_problem_of_the_configuration_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "line.json"
    path.write_text(json.dumps(raw(tmp_path, camera={"deadline_ms": -1, "windwo": 3})))
    assert run(path) == 1
    out = capsys.readouterr().out
    assert "error    configuration: cameras[1].deadline_ms" in out
    assert "did you mean 'window'" in out
    assert f"-> correct {path}" in out
    assert run(tmp_path / "absent.toml") == 1


# ---- what judges -----------------------------------------------------------------------------------------------------


def test_a_bundle_that_is_whole_and_reproduced(tiny_bundle: Path, tmp_path: Path) -> None:
    workers = {"bundle": str(tiny_bundle), "threads": 1}
    whole, golden, speed = model.check_bundle(station(tmp_path, workers=workers, camera={"deadline_ms": 60_000}))
    assert (whole.level, golden.level, speed.level) == (Level.OK, Level.OK, Level.OK)
    assert "come out here as they did" in golden.text


def test_a_bundle_that_takes_most_of_the_deadline_is_a_warning(tiny_bundle: Path, tmp_path: Path) -> None:
    workers = {"bundle": str(tiny_bundle), "threads": 1}
    *_, slow = model.check_bundle(station(tmp_path, workers=workers, camera={"deadline_ms": 0.5}))
    assert slow.level == Level.WARNING
    assert "the shortest deadline is 0.5 ms" in slow.text


def test_every_bundle_that_the_plc_can_choose_is_looked_at(tiny_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_bundle, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text("utf-8"))
    manifest["input"]["shape"] = [48, 64]
    (other / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    bundles = [tiny_bundle, other, tmp_path / "nowhere"]
    recipes = [{"number": n + 1, "bundle": str(bundle)} for n, bundle in enumerate(bundles)]
    found = list(model.check_recipes(station(tmp_path, workers={"bundle": str(tiny_bundle)}, recipes=recipes)))
    assert [one.level for one in found] == [Level.OK, Level.ERROR, Level.ERROR]
    assert "is for other pictures than" in found[1].text


def damage_file(bundle: Path) -> None:
    weights = bundle / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_file, "weights.safetensors"),
        (lambda bundle: (bundle / "stranger").write_text("x"), "stranger is extra"),
        (shutil.rmtree, "is not a folder"),
        (lambda bundle: (bundle / "manifest.json").write_text("{"), "is not a manifest"),
    ],
)
def test_a_damaged_bundle_is_an_error(tiny_bundle: Path, tmp_path: Path, damage: Any, says: str) -> None:
    bundle = tmp_path / "b.bundle"
    shutil.copytree(tiny_bundle, bundle)
    damage(bundle)
    found = only(model.check_bundle(station(tmp_path, workers={"bundle": str(bundle)})))
    assert found.level is Level.ERROR
    assert says in found.text
    assert found.advice


def test_a_device_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    found = only(model.check_device(station(tmp_path, workers={"device": "cuda:99"})))
    assert (found.level, bool(found.advice)) == (Level.ERROR, True)


def test_more_threads_than_cores_are_told(tmp_path: Path) -> None:
    found = only(model.check_device(station(tmp_path, workers={"device": "cpu", "count": 64, "threads": 64})))
    assert (found.level, "4096 threads" in found.text) == (Level.WARNING, True)


# ---- ways in ---------------------------------------------------------------------------------------------------------


def camera_of(folder: Path, source: dict[str, Any], **more: Any) -> Finding:
    config = station(folder, camera={"source": source, **more})
    return only(ways.check_camera(config.cameras[0], ways.judged(config), running=False))


def test_every_kind_of_source_gives_its_first_frame(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save_png(tmp_path / "images" / "a.png", np.zeros((48, 64), np.uint8))
    for source in (SYNTHETIC, {"kind": "folder", "path": str(tmp_path / "images")}):
        found = camera_of(tmp_path, source)
        assert found.level is Level.OK, found


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"kind": "folder", "path": "/nowhere/images"}, "/nowhere/images"),
        ({"kind": "video", "path": "/nowhere/parts.mp4"}, "/nowhere/parts.mp4"),
        ({"kind": "replay", "path": "/nowhere/shift.mcap"}, "/nowhere/shift.mcap"),
        ({"kind": "camera", "device": "/dev/nowhere", "timeout_ms": 300}, "/dev/nowhere"),
        ({"kind": "camera", "device": "http://127.0.0.1:9/x", "timeout_ms": 300}, "127.0.0.1:9"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(tmp_path: Path, source: dict[str, Any], says: str) -> None:
    found = camera_of(tmp_path, source)
    assert found.level is Level.ERROR
    assert says in found.text


def test_frames_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    found = camera_of(tmp_path, SYNTHETIC, max_frame_mb=0.05)
    assert (found.level, "set max_frame_mb to 0.2" in found.advice) == (Level.ERROR, True)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    found = camera_of(tmp_path, {"kind": "folder", "path": str(tmp_path / "images")})
    assert (found.level, "NO_DECISION(DECODE)" in found.text) == (Level.ERROR, True)


def test_the_bundle_of_a_shadow_is_examined_and_keeps_nothing_from_running(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "damaged")
    (tmp_path / "damaged" / "weights.safetensors").write_bytes(b"")
    bundles = {"whole": tiny_bundle, "damaged": tmp_path / "damaged", "missing": tmp_path / "nowhere"}
    shadows = [{"kind": "shadow", "name": name, "bundle": str(bundle)} for name, bundle in bundles.items()]
    whole, damaged, missing = model.check_shadows(station(tmp_path, sinks=shadows))
    assert [one.level for one in (whole, damaged, missing)] == [Level.OK, Level.WARNING, Level.WARNING]
    assert "weights.safetensors does not have the sha256" in damaged.text
    assert "the line runs without the shadow" in missing.advice


def test_pictures_that_the_bundle_does_not_judge_are_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    for height, level in ((240, Level.OK), (200, Level.ERROR)):
        source = SYNTHETIC | {"height": height}
        config = station(tmp_path, camera={"source": source}, workers={"bundle": str(tiny_bundle)})
        found = only(ways.check_camera(config.cameras[0], ways.judged(config), running=False))
        assert found.level is level
    assert "the bundle judges 320x240 gray uint8" in found.text


def test_a_source_without_a_trigger_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "FRAME_S", 0.3)
    (tmp_path / "images").mkdir()
    found = camera_of(tmp_path, {"kind": "folder", "path": str(tmp_path / "images"), "watch": True})
    assert (found.level, "no frame within" in found.text) == (Level.WARNING, True)


def test_a_check_that_hangs_or_dies_is_an_error_itself() -> None:
    release = threading.Event()

    def hangs() -> Iterator[Finding]:
        release.wait(20)
        yield ok("x", "late")

    assert "within 0.1 s" in only(within("x", hangs, 0.1)).text
    release.set()

    def dies() -> Iterator[Finding]:
        yield ok("x", "half")
        raise RuntimeError("out of everything")

    found = only(within("x", dies, 5.0))
    assert (found.level, found.text) == (Level.ERROR, "RuntimeError: out of everything")


# ---- ways out --------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield int(holder.getsockname()[1])


def plc_of(folder: Path, running: bool = False, **plc: Any) -> Finding:
    config = station(folder, sinks=[{"kind": "plc"} | plc])
    [(_, check)] = ways.plc_checks(config, running=running)
    return only(check())


def test_a_port_that_is_taken_is_an_error(tmp_path: Path, taken: int) -> None:
    assert plc_of(tmp_path, port=taken).level is Level.ERROR
    assert plc_of(tmp_path, running=True, port=taken).level is Level.OK, "the running line has it"
    found = list(ways.check_ports(station(tmp_path, line={"metrics": f"127.0.0.1:{taken}"}), running=False))
    assert [(one.check, one.level) for one in found] == [("line.metrics", Level.ERROR)]
    found = list(ways.check_ports(station(tmp_path, line={"tcp": f"127.0.0.1:{taken - 1}"}), running=False))
    assert Level.ERROR in [one.level for one in found]


def plant_of(folder: Path, **sink: Any) -> list[tuple[Level, str]]:
    [(_, check)] = plant.plant_checks(station(folder, sinks=[sink]), running=False)
    return [(finding.level, finding.text) for finding in check()]


def test_an_opc_ua_server_that_others_reach_in_the_clear_is_a_warning(tmp_path: Path, taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert [level for level, _ in plant_of(tmp_path, kind="opcua", port=free)] == [Level.OK]
    assert [level for level, _ in plant_of(tmp_path, kind="opcua", port=taken)] == [Level.ERROR]
    open_to_all = plant_of(tmp_path, kind="opcua", port=free, host="0.0.0.0")
    assert [level for level, _ in open_to_all] == [Level.OK, Level.WARNING]


def test_a_page_that_cannot_be_served_is_an_error(tmp_path: Path, taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert [level for level, _ in plant_of(tmp_path, kind="live", port=free)] == [Level.OK]
    assert [level for level, _ in plant_of(tmp_path, kind="live", port=taken)] == [Level.ERROR]
    token = tmp_path / "token"
    token.write_text("a token that nobody guesses")
    token.chmod(0o444)
    [_, (level, text)] = plant_of(tmp_path, kind="live", port=free, token_file=str(token))
    assert (level, "open to others" in text) == (Level.ERROR, True)


def test_a_broker_that_is_away_is_a_warning_because_nothing_is_lost(tmp_path: Path, taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    for kind in ("mqtt", "sparkplug", "nats", "kafka"):
        away, there = (
            {"port": port} if kind in ("mqtt", "sparkplug") else {"servers": [f"127.0.0.1:{port}"]}
            for port in (free, taken)
        )
        level, text = plant_of(tmp_path, kind=kind, **away)[-1]
        assert (level, "cannot be reached" in text) == (Level.WARNING, True)
        assert plant_of(tmp_path, kind=kind, **there)[-1][0] is Level.OK


def test_digital_outputs_are_taken_for_a_moment(tmp_path: Path) -> None:
    [(level, text)] = plant_of(tmp_path, kind="gpio", chip=str(tmp_path / "lines.jsonl"), pass_line=1, reject_line=2)
    assert (level, text) == (Level.OK, f"{tmp_path}/lines.jsonl: pass 1, reject 2 are free, and reject")
    [(level, text)] = plant_of(tmp_path, kind="gpio", chip="/dev/gpiochip-none", pass_line=1)
    assert (level, "/dev/gpiochip-none" in text or "gpiod" in text) == (Level.ERROR, True)


def test_a_webhook_whose_secret_is_missing_is_an_error(tmp_path: Path, taken: int) -> None:
    secret = tmp_path / "secret"
    sink = {"kind": "webhook", "url": f"http://127.0.0.1:{taken}/", "secret_file": str(secret)}
    assert [level for level, _ in plant_of(tmp_path, **sink)] == [Level.ERROR, Level.OK]
    secret.write_text("s")
    secret.chmod(0o400)
    assert [level for level, _ in plant_of(tmp_path, **sink)] == [Level.OK]


def test_an_extra_that_is_missing_is_an_error(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert plant_of(tmp_path, kind="mqtt", port=taken)[0] == (
        *(Level.ERROR, "paho is not installed: this sink does nothing"),
    )


def test_a_plc_that_does_not_answer_is_an_error(tmp_path: Path, taken: int) -> None:
    free = free_port()
    found = plc_of(tmp_path, mode="client", port=free)
    assert (found.level, "cannot be reached" in found.text) == (Level.ERROR, True)
    found = plc_of(tmp_path, mode="client", port=taken)  # something listens there, but it is no PLC
    assert (found.level, "no answer" in found.text) == (Level.ERROR, True)


def test_an_s7_plc_is_asked_for_its_data_block(tmp_path: Path, taken: int) -> None:
    pytest.importorskip("snap7", reason="python-snap7 is missing: pip install 'line-worker[s7]'")
    from plc_process import BASE, DB, S7Plc

    with S7Plc(tmp_path) as plc:
        there = {"kind": "s7", "host": "127.0.0.1", "port": plc.port, "db": DB, "base": BASE}
        assert plc_of(tmp_path, **there).level is Level.OK
        found = plc_of(tmp_path, **(there | {"base": BASE + 2}))  # the map's last word lies beyond the block
        assert (found.level, "refuses" in found.text) == (Level.ERROR, True)
        found = plc_of(tmp_path, **(there | {"db": DB + 1}))
        assert (found.level, "PUT/GET is permitted" in found.text) == (Level.ERROR, True)
    found = plc_of(tmp_path, **there)
    assert (found.level, "cannot be reached" in found.text) == (Level.ERROR, True)
    found = plc_of(tmp_path, **(there | {"port": taken}))
    assert (found.level, "no answer" in found.text) == (Level.ERROR, True)
    assert plc_of(tmp_path, running=True, **there).level is Level.OK


# ---- the host --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["/proc/line-worker", "{}/file/data"])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, data: str) -> None:
    (tmp_path / "file").write_text("")
    config = station(tmp_path, line={"data": data.format(tmp_path)})
    found = list(host.check_folders(config))
    if data.startswith("/proc"):
        assert [one.level for one in found] == [Level.ERROR]
    else:
        assert "is no folder" in found[0].text
    assert found[0].advice


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path) -> None:
    levels = [host.space("data", tmp_path, free).level for free in (10**7, 10**8, 10**10)]
    assert levels == [Level.ERROR, Level.WARNING, Level.OK]


def test_a_slow_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, deadline, level in ((0.001, 100, Level.OK), (0.03, 100, Level.WARNING), (0.06, 100, Level.ERROR)):
        monkeypatch.setattr(host, "_syncs", lambda folder, seconds=seconds: iter([seconds] * host.SYNCS))
        found = only(host.check_journal_disk(station(tmp_path, camera={"deadline_ms": deadline})))
        assert found.level is level


def test_rings_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    config = station(tmp_path, camera={"max_frame_mb": 256, "window": 256})
    shared = next(host.check_memory(config, running=False))
    if shutil.disk_usage("/dev/shm").free > 140e9:
        pytest.skip("/dev/shm has more than 140 GB free; where it is smaller: pytest tests/test_doctor.py")
    assert (shared.level, "inline" in shared.advice) == (Level.ERROR, True)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o750, Level.OK), (0o700, Level.OK), (0o770, Level.ERROR), (0o755, Level.ERROR)]
)
def test_a_runtime_folder_that_others_can_reach_is_an_error(tmp_path: Path, mode: int, level: Level) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    assert only(host.check_runtime(station(tmp_path))).level is level


def test_a_journal_that_the_hub_would_refuse_is_an_error(tmp_path: Path) -> None:
    config = station(tmp_path)
    config.line.data.mkdir()
    config.journal_path.write_bytes(b"no journal " * 500)
    assert "cannot be read" in only(host.check_journal(config)).text
    config.journal_path.unlink()
    with contextlib.closing(sqlite3.connect(config.journal_path, isolation_level=None)) as db:
        db.executescript("CREATE TABLE meta (key, value); CREATE TABLE outcomes (row);")
        db.execute("INSERT INTO meta VALUES ('schema', '99')")
    found = only(host.check_journal(config))
    assert found.level is Level.ERROR
    assert f"written by another version (schema 99, this one is {SCHEMA_VERSION})" in found.text


def test_a_store_that_the_sink_would_refuse_is_an_error(tmp_path: Path) -> None:
    config = station(tmp_path, sinks=[{"kind": "store"}])
    path = config.store_path / FILE
    assert list(host.check_stores(config)) == []
    store = Store(config.store_path, 1_000_000)
    store.open()
    store.close()
    assert only(host.check_stores(config)).level is Level.OK
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=13")
    with pytest.raises(SinkError) as refused:
        store.open()
    found = only(host.check_stores(config))
    assert (found.check, found.level) == ("sink store", Level.ERROR)
    for text in (found.text, str(refused.value)):
        assert "schema 13, this one is" in text
    path.write_bytes(b"no store " * 500)
    assert "cannot be read (file is not a database)" in only(host.check_stores(config)).text


def test_an_unsynchronised_clock_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_synchronised", lambda: "no")
    monotonic, wall = host.check_clock(station(tmp_path))
    assert (monotonic.level, wall.level) == (Level.OK, Level.WARNING)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert "is not set" in list(host.check_clock(station(tmp_path)))[1].text


def test_a_hub_elsewhere_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    away = {"tcp": "no-such-host.invalid:5600", "keys": {"dir": str(tmp_path / "keys")}}
    config = station(tmp_path, line=away)
    assert "cannot be reached" in only(ways.check_hub(config)).text
    assert not list(ways.check_ports(config, running=False)), "its ports are not this host's"
    assert not list(ways.check_hub(station(tmp_path)))


def test_keys_that_others_can_read_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    pairs = iter([(letter * 40, letter.upper() * 40) for letter in "abcd"])
    for role in ("hub", "source", "worker"):
        create(folder, role, role, lambda: next(pairs))
    line = {"tcp": "127.0.0.1:5600", "keys": {"dir": str(folder)}}
    config = station(tmp_path, line=line)
    levels = {finding.check: finding.level for finding in keys.check_keys(config)}
    expected = {"key of hub": Level.OK, "key of source": Level.OK, "key of worker": Level.OK, "keys": Level.OK}
    assert levels == expected | {"key of sink": Level.WARNING}
    (folder / "source.secret").chmod(0o440)
    broken = [finding for finding in keys.check_keys(config) if finding.level is Level.ERROR]
    assert {finding.check for finding in broken} == {"keys", "key of source"}
    assert "can be read by others" in broken[0].text
    shutil.rmtree(folder)
    assert only(keys.check_keys(config)).level is Level.ERROR
    assert list(keys.check_keys(station(tmp_path))) == [], "a line on one host has none"


def test_while_the_line_runs_what_it_holds_is_left_alone(short_path: Path, taken: int) -> None:
    camera = {"source": {"kind": "camera", "device": "/dev/nowhere"}}
    path = short_path / "line.json"
    path.write_text(json.dumps(raw(short_path, camera=camera, sinks=[{"kind": "plc", "port": taken}])))
    with only_one(short_path / "run", "hub"):
        found = {finding.check: finding for finding in examine(path)}
    assert found["camera cam"].text == "not tried: the running line has it"
    assert found["sink plc"].level is Level.OK
    assert not [finding for finding in found.values() if finding.level is Level.ERROR]


# ---- who comes first -------------------------------------------------------------------------------------------------


def test_a_line_that_is_started_behind_other_programs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for may, says in ((True, "comes before"), (False, "does not come before")):
        monkeypatch.setattr(host, "may_take", lambda _, may=may: may)
        found = only(host.check_priority(station(tmp_path), running=False))
        assert (found.level, f"a line of this user {says} other programs" in found.text) == (Level.OK, True)


@pytest.mark.parametrize(("nice", "level"), [(-5, Level.OK), (0, Level.WARNING), (10, Level.WARNING)])
def test_a_line_that_runs_behind_other_programs_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nice: int, level: Level
) -> None:
    config = station(tmp_path)
    monkeypatch.setattr(host.os, "getpriority", lambda *_: nice)
    with only_one(config.line.runtime, "hub"):
        found = only(host.check_priority(config, running=True))
    assert (found.level, f"(nice {nice})" in found.text) == (level, True)
    assert ("LimitNICE=-5" in found.advice) == (level is Level.WARNING)


def test_a_hub_that_has_just_ended_is_no_error(tmp_path: Path) -> None:
    config = station(tmp_path)
    with subprocess.Popen(["true"]) as gone:
        pass
    config.line.runtime.mkdir()
    for held in (str(gone.pid), ""):
        (config.line.runtime / "hub.lock").write_text(held)
        assert only(host.check_priority(config, running=True)) == ok("priority", "the hub cannot be seen from here")
