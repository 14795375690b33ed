"""Rescoring: all cores give what one gives, in order; interrupted runs go on; changed verdicts are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from calib.options import TrainOptions
from calib.train import train
from line_worker.bundle import Bundle
from line_worker.cli import main
from line_worker.errors import ConfigError, LineWorkerError
from line_worker.images import save_png
from line_worker.recordings import look
from line_worker.rescore.results import Results
from line_worker.rescore.run import run
from line_worker.rescore.shares import names, pictures, rescore
from line_worker.source.drawing import draw_part
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter
from live_bench import until


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
    first = Results(tmp_path / "r.jsonl", whole[0]["bundle"], (), resume=False)
    for verdict in whole[:2]:
        first.add(verdict)
    first.stop()
    with first.part.open("a") as file:
        file.write('{"number": 2, "sou')  # the computer went down in the middle of a line
    assert run([folder], bundle, tmp_path / "r.jsonl", 1, resume=True, as_json=True) == 0
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()] == whole
    assert not first.part.exists()


def test_the_summary_counts_what_was_there_from_before(bundle, recording, tmp_path, monkeypatch, capsys):
    """The picture that changes was judged by the interrupted run."""
    sha = Bundle.load(bundle).sha
    judged = [verdict(number, f"l/cam/7/{number}", str(recording)) | {"bundle": sha} for number in range(3)]
    monkeypatch.setattr("line_worker.rescore.run.rescore", lambda sources, bundle, processes, done: judged[done:])
    first = Results(tmp_path / "r.jsonl", sha, (), resume=False)
    for one in judged[:2]:
        first.add(one)
    first.stop()
    (tmp_path / "again.jsonl.part").write_bytes(first.part.read_bytes())
    assert run([recording], bundle, tmp_path / "r.jsonl", 1, resume=True, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["left_from_before"], found["compared"]) == (3, 2, 3)
    assert found["outcomes"] == {"PASS": 3}
    assert found["changed"] == [{"name": "l/cam/7/1", "was": "FAIL", "is": "PASS"}]
    run([recording], bundle, tmp_path / "again.jsonl", 1, resume=True, as_json=False)
    words = capsys.readouterr().out
    assert words.startswith("1 pictures in ")
    assert ", 2 were there from before: 3 PASS\n1 of 3 recorded verdicts change\n" in words


@pytest.mark.long
def test_a_process_that_dies_ends_the_run_and_loses_nothing(bundle, folder):
    verdicts = rescore([folder] * 40, bundle, 2)
    assert next(verdicts)["number"] == 0
    children = [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    judges = [pid for pid in children if b"rescore" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(judges[0], signal.SIGKILL)
    with pytest.raises(LineWorkerError, match=r"signal 9.*--resume"):
        list(verdicts)
    until(lambda: not [pid for pid in judges if Path(f"/proc/{pid}").exists()], 10)


def test_ctrl_c_says_how_to_go_on(bundle, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    sources = [str(folder)] * 100
    argv = [sys.executable, "-m", "line_worker.cli", "rescore", *sources, "--bundle", str(bundle), "--out", str(out)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: out.with_name("out.jsonl.part").exists() and out.with_name("out.jsonl.part").stat().st_size, 60)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "--resume goes on with them" in said


def test_what_a_process_logs_does_not_come_between_its_verdicts(bundle, folder):
    program = (
        "import sys, structlog, line_worker.selftest as selftest; from line_worker.rescore.shares import main\n"
        "tested = selftest.self_tested\n"
        "selftest.self_tested = lambda *a: structlog.get_logger().warning('torch is used') or tested(*a, 'torch')\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, str(bundle), "0", "1", "0", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["number"] for line in done.stdout.splitlines()] == list(range(6))
    assert "torch is used" in done.stderr


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
        Results(tmp_path / name, "b", (), resume=False)


def left(path: Path, names: str, source: str = "some") -> list[tuple[str, str]]:
    """Leave the verdicts of an interrupted run on the pictures `names`; returns these."""
    asked = [(source, name) for name in names]
    first = Results(path, "b", asked, resume=False)
    for number, (_, name) in enumerate(asked):
        first.add(verdict(number, name, source))
    first.stop()
    return asked


def verdict(number: int, name: str, source: str = "some") -> dict[str, object]:
    found = {"number": number, "source": source, "name": name, "outcome": "PASS", "reason": "NONE", "score": 0.5}
    return found | {"threshold": 1.0, "p_value": None, "boxes": [[1, 2, 3, 4]], "bundle": "b"}


def test_results_of_another_bundle_are_not_mixed(tmp_path):
    asked = left(tmp_path / "r.jsonl", "a")
    with pytest.raises(ConfigError, match="another bundle"):
        Results(tmp_path / "r.jsonl", "c", asked, resume=True)


@pytest.mark.parametrize(
    ("source", "now", "words"),
    [
        ("other", "abcd", "verdict 0 is on a of some, where the sources now have a of other"),
        ("some", "aabc", "verdict 1 is on b of some, where the sources now have a of some"),
        ("some", "ab", "verdict 2 is on c of some, where the sources now have nothing any more"),
    ],
)
def test_results_of_other_pictures_are_not_mixed(tmp_path, source, now, words):
    left(tmp_path / "r.jsonl", "abc")
    before = (tmp_path / "r.jsonl.part").read_bytes()
    with pytest.raises(ConfigError, match=f"{words}; nothing was judged.*delete this file"):
        Results(tmp_path / "r.jsonl", "b", [(source, name) for name in now], resume=True)
    assert (tmp_path / "r.jsonl.part").read_bytes() == before


def test_results_go_on_when_pictures_came_behind_them(tmp_path):
    asked = left(tmp_path / "r.jsonl", "abc")
    again = Results(tmp_path / "r.jsonl", "b", [*asked, ("some", "d")], resume=True)
    assert again.done == 3
    again.add(verdict(3, "d"))
    again.finish()
    assert [json.loads(line)["name"] for line in (tmp_path / "r.jsonl").read_text().splitlines()] == list("abcd")


def test_an_interrupted_run_is_not_written_over(tmp_path):
    asked = left(tmp_path / "r.jsonl", "abc")
    with pytest.raises(ConfigError, match=r"r\.jsonl\.part.*\n.*--resume, or delete this file"):
        Results(tmp_path / "r.jsonl", "b", asked, resume=False)
    again = Results(tmp_path / "r.jsonl", "b", asked, resume=True)
    again.stop()
    assert again.done == 3


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[1]\n", b'{"bundle": "b"}\n', b"\0" * 9 + b"\n"])
def test_results_that_are_none_are_refused_in_words(tmp_path, garbage):
    (tmp_path / "r.jsonl.part").write_bytes(garbage)
    with pytest.raises(ConfigError, match="line 1 is not verdict 0 of a rescore"):
        Results(tmp_path / "r.jsonl", "b", [("some", "a")], resume=True)


def test_results_where_nothing_can_be_written_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written .No such file"):
        Results(tmp_path / "nowhere" / "r.jsonl", "b", (), resume=False)


def test_a_table_names_files_whose_names_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    results = Results(tmp_path / "r.parquet", "b", [("some", name)], resume=False)
    results.add(verdict(0, name))
    results.finish()
    [row] = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert row == verdict(0, r"caf\xe9.png")


def test_what_a_recording_lacks_is_told(bundle, recording, monkeypatch, capsys):
    monkeypatch.setattr("line_worker.rescore.run.rescore", lambda *asked: [])
    recording.write_bytes(recording.read_bytes()[:-2000])
    run([recording, recording], bundle, None, 1, resume=False, as_json=True)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{recording}: {problem}" for problem in look(recording).problems] * 2
    assert any("was not closed" in line for line in told)


def test_names_are_those_of_the_verdicts(folder, recording):
    found = [(picture.source, picture.name) for _, picture in pictures([recording, folder])]
    assert list(names([recording, folder])) == found


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
