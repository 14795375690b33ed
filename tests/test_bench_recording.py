"""`bench recording`: the same load without and with a recorder, and what lacks in the file is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.line import Load, Measured
from bench.recording import Run, _cost, _missing
from line_worker.cli import main
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter


@pytest.mark.long
def test_a_recorded_line_lacks_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--size", "320x240", "--rate", "50", "--seconds", "0.6", "--runs", "1", "--place", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["bench", "recording", *arguments, "--json"])
    costs = json.loads(capsys.readouterr().out.splitlines()[-1])["costs"]
    assert [(cost["way"], cost["parts"], cost["undecided"], cost["missing"]) for cost in costs] == [
        (way, 30, 0, 0) for way in ("without", "none", "delta", "png")
    ]
    assert end.value.code == 0
    assert costs[0]["mb"] == 0
    as_taken, differences, as_png = (cost["mb"] for cost in costs[1:])
    assert 2.3 < as_taken < 2.6
    assert differences < as_png < 0.8 * as_taken
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_in_the_file_is_counted(tmp_path: Path) -> None:
    writer, pixels = RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", 0.0, 0.0)), np.zeros((9, 9), np.uint8)
    for seq in range(3):
        fields = (pixels.shape, "uint8", "gray", checksum(pixels), "inline")
        missing = "the disk does not keep up" if seq == 1 else ""
        frame = Frame(FrameKey("l", "cam", 1, seq), 0.0, 100.0, *fields)
        writer.frame(Trigger(frame, missing), None if missing else pixels, seq, seq)
    writer.close()
    assert _missing(writer.path, 3) == 1 + 3, "a picture, and the outcomes"
    assert _missing(writer.path, 4) == 1 + 2 + 4


def _run(p50: float, **changes: object) -> Run:
    fields = {"load": Load(), "parts": 9, "counts": {}, "reasons": {}, "rate": 1.0, "lost": 0, "stages_ms": {}}
    line = Measured(elapsed_ms={"p50": p50, "p99": 2 * p50}, **{**fields, **changes})  # type: ignore[arg-type]
    return Run(line, 1, 5.0)


def test_the_median_run_counts() -> None:
    cost = _cost("png", [_run(3.0), _run(1.0), _run(20.0)])
    assert (cost.p50_ms, cost.p99_ms, cost.lowest_p99_ms, cost.highest_p99_ms) == (3.0, 6.0, 2.0, 40.0)
    assert (cost.parts, cost.undecided, cost.missing, cost.mb, cost.whole) == (27, 0, 3, 15.0, False)


def test_undecided_and_lost_parts_are_counted() -> None:
    cost = _cost("without", [_run(3.0, lost=2), _run(1.0, counts={"PASS": 5, "NO_DECISION": 4})])
    assert (cost.undecided, cost.whole) == (6, False)
