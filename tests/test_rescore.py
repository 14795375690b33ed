"""Rescoring: all cores give what one gives, in order; interrupted runs go on; changed verdicts are named."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from calib.options import TrainOptions
from calib.train import train
from line_worker.cli import main
from line_worker.errors import ConfigError, LineWorkerError
from line_worker.images import save_png
from line_worker.rescore.results import Results
from line_worker.rescore.run import run
from line_worker.rescore.shares import pictures, rescore
from line_worker.source.drawing import draw_part
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter


def drawn(seed: int, defect: str = "") -> np.ndarray:
    return draw_part(np.random.default_rng(seed), "washer", defect, size=(96, 128), pose="none").image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rescore")
    (folder / "good").mkdir()
    for seed in range(20):
        save_png(folder / "good" / f"{seed:02d}.png", drawn(seed))
    train(TrainOptions(folder / "good", folder / "b.bundle", reconstruct="memory", repeats=0, pose="none"))
    return folder / "b.bundle"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "some").mkdir()
    for seed in range(5):
        save_png(tmp_path / "some" / f"{seed}.png", drawn(100 + seed, "" if seed % 2 else "missing"))
    (tmp_path / "some" / "9.png").write_bytes(b"no picture")
    return tmp_path / "some"


@pytest.fixture
def recording(tmp_path) -> Path:
    """Return a recording of three good parts of which the line failed the second; the third has no picture."""
    writer = RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", 1.7e9, 0.002))
    for seq, (verdict, reason) in enumerate([("PASS", 0), ("FAIL", 1), ("PASS", 0)]):
        picture, key = drawn(seq), FrameKey("l", "cam", 7, seq)
        fields = (picture.shape, "uint8", "gray", checksum(picture), "ring", "x.ring", 4096, 6, 0)
        lost = "the disk was slow" if seq == 2 else ""
        writer.frame(Trigger(Frame(key, 1.5, 100.0, *fields), lost), None if lost else picture, seq * 10, seq * 10)
        evidence = (1.0, 1.5, (), "b" * 64, "w", 1, "", 0)
        writer.outcome(Outcome(seq + 1, key, verdict, reason, *evidence, 12.0, 80.0, 1.7e9, {}), seq * 10 + 1)
    writer.close()
    return writer.path


def test_two_processes_give_what_one_gives_in_the_same_order(bundle, folder):
    alone, together = (list(rescore([folder], bundle, processes)) for processes in (1, 2))
    assert alone == together
    assert [verdict["number"] for verdict in alone] == list(range(6))
    assert [Path(verdict["name"]).name for verdict in alone] == [*(f"{k}.png" for k in range(5)), "9.png"]
    assert (alone[5]["outcome"], alone[5]["score"]) == ("NO_DECISION", None)
    assert {verdict["outcome"] for verdict in alone[:5]} <= {"PASS", "FAIL"}
    assert [verdict["number"] for verdict in rescore([folder], bundle, 2, done=3)] == [3, 4, 5]


@pytest.mark.long
def test_recorded_verdicts_that_change_are_named(bundle, recording, tmp_path, capsys):
    out = tmp_path / "r.parquet"
    assert run([recording], bundle, out, 1, resume=False, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == 3
    assert next((one["name"], one["was"]) for one in found["changed"]) == ("l/cam/7/1", "FAIL")
    assert found["changed"][-1] == {"name": "l/cam/7/2", "was": "PASS", "is": "NO_DECISION"}
    rows = pq.read_table(out).to_pylist()
    assert [row["name"] for row in rows] == [f"l/cam/7/{seq}" for seq in range(3)]
    assert run([recording], bundle, None, 1, resume=False, as_json=False) == 0
    words = capsys.readouterr().out
    assert "of 3 recorded verdicts change" in words
    assert "PASS -> NO_DECISION  l/cam/7/2" in words


@pytest.mark.long
def test_an_interrupted_run_goes_on_where_it_stopped(bundle, folder, tmp_path):
    whole = list(rescore([folder], bundle, 1))
    first = Results(tmp_path / "r.jsonl", whole[0]["bundle"], resume=False)
    for verdict in whole[:2]:
        first.add(verdict)
    first.stop()
    with first.part.open("a") as file:
        file.write('{"number": 2, "sou')  # the computer went down in the middle of a line
    assert run([folder], bundle, tmp_path / "r.jsonl", 1, resume=True, as_json=True) == 0
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()] == whole
    assert not first.part.exists()


@pytest.mark.long
def test_a_process_that_dies_ends_the_run_and_loses_nothing(bundle, folder):
    verdicts = rescore([folder] * 40, bundle, 2)
    assert next(verdicts)["number"] == 0
    children = [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    victim = next(pid for pid in children if b"rescore" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(LineWorkerError, match=r"signal 9.*--resume"):
        list(verdicts)
    time.sleep(0.05)
    left = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in left if b"rescore" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_sources_that_lead_nowhere_are_refused(bundle, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        list(rescore([tmp_path / "nowhere"], bundle, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no image"):
        list(pictures([tmp_path / "empty"]))


@pytest.mark.parametrize(("name", "words"), [("r.csv", "neither"), ("there.jsonl", "not overwritten")])
def test_results_that_cannot_be_kept_are_refused(tmp_path, name, words):
    (tmp_path / "there.jsonl").touch()
    with pytest.raises(ConfigError, match=words):
        Results(tmp_path / name, "b", resume=False)


def test_results_of_another_bundle_are_not_mixed(tmp_path):
    (tmp_path / "r.jsonl.part").write_text('{"bundle": "a"}\n')
    with pytest.raises(ConfigError, match="another bundle"):
        Results(tmp_path / "r.jsonl", "b", resume=True)


@pytest.mark.long
def test_the_bench_says_how_many_pictures_a_second(bundle, folder, capsys):
    options = ["--bundle", str(bundle), "--processes", "2", "--rounds", "1", "--json"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "rescore", *[str(folder)] * 3, *options])
    found = json.loads(capsys.readouterr().out)
    assert (end.value.code, found["same"]) == (0, True)
    [pace] = found["paces"]
    assert (pace["processes"], pace["pictures"], pace["a_second"] > 0) == (2, 18, True)


def test_the_bench_refuses_what_cannot_tell(monkeypatch, capsys):
    monkeypatch.setattr("bench.rescore.rescore", lambda *asked: iter([{}] * 8))
    with pytest.raises(SystemExit) as end:
        main(["bench", "rescore", ".", "--bundle", "b"])
    assert end.value.code == 3
    assert "8 pictures are too few for 1 processes: give at least 9" in " ".join(capsys.readouterr().err.split())
