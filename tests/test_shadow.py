"""The shadow as a sink: what it copies, leaves out, books and reports, with a bundle made of a function."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker import cli
from line_worker.config import Config, ShadowSink, parse
from line_worker.errors import BundleError, ConfigError, SinkError
from line_worker.hub.bounds import memory_bound
from line_worker.joining import check_sink
from line_worker.sink import make_sink, shadow
from line_worker.sink.shadow import Shadow, book, judge
from line_worker.sink.shadow.book import Book, Pages, Run, away, read_book
from line_worker.sink.shadow.comparison import Comparison, Judgement, Kind, share
from line_worker.sink.shadow.report import FEW, WORST, advice, render, report, to_json
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire.frames import checksum
from line_worker.wire.limits import SHADOW_FRAMES
from line_worker.wire.messages import Frame, FrameKey, HubState, Outcome

PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8)
LINE, SECOND = "a" * 64, "b" * 64


def said(reason: Reason = Reason.NONE, score: float | None = 0.5, p_value: float | None = 0.25) -> Judgement:
    return Judgement(reason, score, 1.0, None if score is None else p_value)


FAIL, POSE = said(Reason.ANOMALY, 3.0), said(Reason.POSE, None)


def compared(seq: int, line: Judgement, second: Judgement, picture: str = "") -> Comparison:
    return Comparison(FrameKey("l", "cam", 1, seq), seq + 1, 100.0 + seq, line, second, picture)


def outcome(seq: int, reason: Reason = Reason.NONE, **more: Any) -> Outcome:
    score = None if verdict_of(reason) == "NO_DECISION" else 0.5 if reason is Reason.NONE else 3.0
    fields = (seq + 1, FrameKey("l", "cam", 1, seq), verdict_of(reason), int(reason), score, 1.0, (), LINE, "w", 1)
    return dataclasses.replace(Outcome(*fields, "", 0, 1.0, 50.0, 100.0 + seq, {}, None), **more)


def frame(seq: int, **more: Any) -> Frame:
    fields = (5.0, 100.0, PICTURE.shape, "uint8", "gray", checksum(PICTURE), "inline")
    return dataclasses.replace(Frame(FrameKey("l", "cam", 1, seq), *fields), **more)


def state(instance: int = 1, bundle: str = LINE) -> HubState:
    return HubState(instance, 1, 2, "", bundle, 0, 1, {})


class Second:
    """A bundle that says what it is told to; `gate` holds it back."""

    sha = SECOND

    def __init__(self, verdict: Judgement | None = None) -> None:
        self.verdict = verdict or said()
        self.gate = threading.Event()
        self.gate.set()
        self.drawn = 0

    def judge(self, image: np.ndarray) -> tuple[Judgement, Callable[[], bytes]]:
        assert self.gate.wait(20)
        assert np.array_equal(image, PICTURE)
        return self.verdict, self._draw

    def _draw(self) -> bytes:
        self.drawn += 1
        return b"a picture"


def line(folder: Path, **more: Any) -> Config:
    camera = {"name": "cam", "deadline_ms": 500, "max_frame_mb": 1, "source": {"kind": "synthetic"}}
    return parse(
        {
            "line": {"name": "l", "runtime": str(folder / "run"), "data": str(folder), **more.get("line", {})},
            "cameras": [camera | more.get("camera", {})],
            "workers": {"bundle": "stub"},
            "sinks": more.get("sinks", [{"kind": "shadow", "bundle": "other.bundle"}]),
        }
    )


class Bench:
    """A shadow on a station that decides what it is told to; time is an argument."""

    def __init__(self, folder: Path, load: Callable[[], judge.Bundle]) -> None:
        config = line(folder)
        [sink] = config.sinks
        assert isinstance(sink, ShadowSink)
        self.shadow = Shadow(sink, config, load)
        self.path = config.shadow_path(sink).with_suffix(".sqlite")
        self.now = 0.0
        self.shadow.open()
        self.shadow.beat(state(), 0.0)

    def part(self, seq: int, reason: Reason = Reason.NONE, **more: Any) -> None:
        self.shadow.tap(frame(seq, **more.pop("frame", {})), PICTURE.tobytes())
        self.shadow.deliver(outcome(seq, reason, **more), self.now)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.now += 0.02
            self.shadow.poll(self.now)
            time.sleep(0.002)

    def ready(self) -> Bench:
        self.until(lambda: self.shadow._judge is not None and self.shadow._judge.sha != "")
        return self

    def pages(self) -> Pages:
        self.shadow.close()
        return read_book(self.path)


@pytest.fixture
def second() -> Second:
    return Second()


@pytest.fixture
def bench(tmp_path: Path, second: Second) -> Iterator[Bench]:
    found = Bench(tmp_path, lambda: second)
    yield found.ready()
    second.gate.set()
    found.shadow.close()


def skipped(pages: Pages) -> dict[str, int]:
    return report(pages).skipped


# ---- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "kind", "differs", "apart"),
    [
        (said(), said(score=0.75), Kind.BOTH_PASS, False, 0.25),
        (FAIL, said(Reason.ANOMALY, 2.0), Kind.BOTH_FAIL, False, 1.0),
        (said(), FAIL, Kind.ONLY_SHADOW_FAILS, True, 2.5),
        (FAIL, said(), Kind.ONLY_SHADOW_PASSES, True, 2.5),
        (POSE, said(), Kind.UNDECIDED, True, 0.0),
        (FAIL, POSE, Kind.UNDECIDED, True, 0.0),
        (POSE, said(Reason.FOCUS, None), Kind.UNDECIDED, False, 0.0),
    ],
)
def test_two_judgements(one: Judgement, other: Judgement, kind: Kind, differs: bool, apart: float) -> None:
    found = compared(0, one, other)
    assert (found.kind, found.differs, found.apart) == (kind, differs, apart)


def test_scores_are_compared_as_multiples_of_their_limits() -> None:
    found = compared(0, Judgement(Reason.NONE, 2.0, 4.0, None), Judgement(Reason.NONE, 50.0, 100.0, None))
    assert found.apart == 0.0


def test_the_interval_of_a_share() -> None:
    assert share(0, 0) == (0.0, 0.0, 1.0)
    assert share(0, 300) == pytest.approx((0.0, 0.0, 0.01264), abs=1e-5)
    assert share(10, 100) == pytest.approx((0.1, 0.0552, 0.1744), abs=1e-4)
    assert share(5, 5) == pytest.approx((1.0, 0.5655, 1.0), abs=1e-4)


def test_a_part_is_judged_after_the_line_has_decided_it_and_both_are_kept(bench: Bench, second: Second) -> None:
    second.verdict = FAIL
    bench.shadow.tap(frame(0), PICTURE.tobytes())
    assert bench.shadow._judge is not None
    assert bench.shadow._judge.waiting == 0, "the line decides first"
    bench.shadow.deliver(outcome(0, p_value=0.5), 0.0)
    pages = bench.pages()
    picture = "cam/1/0-shadow-fails.png"
    assert list(pages.comparisons) == [
        Comparison(FrameKey("l", "cam", 1, 0), 1, 100.0, said(p_value=0.5), FAIL, picture)
    ]
    assert (bench.path.with_suffix("") / picture).read_bytes() == b"a picture"
    assert [(run.bundle, run.shadow) for run in pages.runs] == [(LINE, SECOND)]


def test_pictures_are_drawn_of_disagreements_only(bench: Bench, second: Second) -> None:
    bench.part(0)
    bench.part(1, Reason.ANOMALY)
    assert [one.picture for one in bench.pages().comparisons] == ["", "cam/1/1-shadow-passes.png"]
    assert second.drawn == 1


def test_a_part_that_is_sent_again_is_compared_once(bench: Bench) -> None:
    bench.part(0)
    bench.part(0)
    found = report(bench.pages())
    assert (found.compared, found.unseen) == (1, 0)


# ---- what is left out, and counted -----------------------------------------------------------------------------------


def test_what_it_is_too_slow_for_is_skipped_and_its_memory_is_bounded(bench: Bench, second: Second) -> None:
    second.gate.clear()
    for seq in range(3 * SHADOW_FRAMES):
        bench.part(seq)
    bench.shadow.poll(0.0)
    assert bench.shadow._judge is not None
    assert bench.shadow._judge.waiting == SHADOW_FRAMES
    second.gate.set()
    found = report(bench.pages())
    assert (found.skipped, found.unseen) == ({shadow.BUSY: 2 * SHADOW_FRAMES}, 2 * SHADOW_FRAMES)
    assert (found.compared, found.lost) == (SHADOW_FRAMES, 0)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"frame": {"place": "none"}}, shadow.NO_PICTURE),
        ({"frame": {"checksum": 1}}, shadow.GONE),
        ({"frame": {"place": "ring", "ring": "gone.ring"}}, shadow.GONE),
        ({"reason": Reason.DEADLINE}, shadow.NOT_JUDGED),
        ({"reason": Reason.CANARY}, shadow.NOT_JUDGED),
        ({"reason": Reason.SHAPE, "bundle": ""}, shadow.NOT_JUDGED),
        ({"bundle": "c" * 64}, shadow.OTHER_BUNDLE),
    ],
)
def test_what_cannot_be_compared_is_counted_by_why(bench: Bench, part: dict[str, Any], why: str) -> None:
    bench.part(0)
    bench.part(1, **part)
    found = report(bench.pages())
    assert (found.compared, found.skipped, found.unseen, found.lost) == (1, {why: 1}, 1, 0)


def test_pictures_and_outcomes_that_do_not_come(bench: Bench) -> None:
    bench.shadow.deliver(outcome(0), 0.0)
    bench.shadow.tap(frame(1), PICTURE.tobytes())
    bench.shadow.poll(1.4)
    assert len(bench.shadow._held) == 1
    bench.shadow.poll(2.0)
    assert bench.shadow._held == {}
    assert skipped(bench.pages()) == {shadow.NOT_HERE: 1, shadow.NO_OUTCOME: 1}


def test_what_was_decided_while_it_was_away_is_not_seen(tmp_path: Path, second: Second) -> None:
    for first in (0, 50):  # killed in between
        bench = Bench(tmp_path, lambda: second).ready()
        bench.part(first)
        bench.part(first + 1)
        pages = bench.pages()
    found = report(pages)
    assert (found.compared, found.away, found.unseen) == (4, 48, 48)


def test_another_bundle_of_the_line_and_another_hub_begin_a_new_run(bench: Bench) -> None:
    bench.part(0)
    bench.until(lambda: bench.shadow._run is not None and bench.shadow._run.compared == 1)
    bench.shadow.beat(state(instance=2), 0.0)
    bench.part(1)
    bench.until(lambda: bench.shadow._run is not None and bench.shadow._run.compared == 1)
    bench.shadow.beat(state(instance=2, bundle="c" * 64), 0.0)
    bench.part(2, bundle="c" * 64)
    bench.until(lambda: bench.shadow._run is not None and bench.shadow._run.compared == 1)
    pages = bench.pages()
    assert [(run.bundle[0], run.compared) for run in pages.runs] == [("c", 1)], "the newest pair"
    assert pages.pairs == 2
    assert [one.key.seq for one in pages.comparisons] == [2]


def test_what_a_hanging_device_holds_at_the_end_is_left_out(
    bench: Bench, second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "FINISH_S", 0.05)
    second.gate.clear()
    bench.part(0)
    bench.part(1)
    assert skipped(bench.pages()) == {shadow.STOPPED: 2}


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_bundle_that_cannot_be_used_is_told_and_tried_again(
    tmp_path: Path, second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge.Judge.__init__, "__defaults__", (0.01,))
    whole = threading.Event()

    def load() -> Second:
        if not whole.is_set():
            raise BundleError("b: damaged")
        return second

    bench = Bench(tmp_path, load)
    assert bench.shadow.reachable()[0] is False, "loading, or loaded in vain"
    bench.until(lambda: bench.shadow.reachable() == (False, "b: damaged"))
    bench.part(0)
    whole.set()
    bench.ready()
    assert bench.shadow.reachable() == (True, "")
    bench.part(1)
    assert [one.key.seq for one in bench.pages().comparisons] == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_nobody_expected_ends_the_process(bench: Bench, second: Second) -> None:
    second.verdict = None  # type: ignore[assignment]
    bench.part(0)
    with pytest.raises(SinkError, match="started again, the line goes on"):
        bench.until(lambda: False)


def test_a_damaged_book_is_told(tmp_path: Path, second: Second) -> None:
    (tmp_path / "shadow-shadow.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(SinkError, match=r"cannot be opened .* the line goes on"):
        Bench(tmp_path, lambda: second)


def test_a_book_that_cannot_be_written_costs_comparisons_only(bench: Bench) -> None:
    with sqlite3.connect(bench.path) as other:
        other.execute("DROP TABLE skipped")
    other.close()
    bench.part(0)
    bench.until(lambda: not bench.shadow.reachable()[0])
    assert "cannot be written" in bench.shadow.reachable()[1]
    bench.part(1)


def test_closing_is_quick_and_may_be_repeated(bench: Bench) -> None:
    bench.shadow.close()
    bench.shadow.close()
    assert "shadow" not in {thread.name for thread in threading.enumerate()}


# ---- the book --------------------------------------------------------------------------------------------------------


def test_the_book_keeps_the_newest_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "KEPT", 3)
    writing = Book(tmp_path / "b.sqlite")
    run = writing.begin(LINE, SECOND, 1.0)
    for seq in range(10):
        run.saw(seq + 1)
        writing.add(run, compared(seq, said(), said()))
        writing.commit(run)
    writing.close()
    pages = read_book(tmp_path / "b.sqlite")
    assert [one.key.seq for one in pages.comparisons] == [7, 8, 9]
    found = report(pages)
    assert (found.compared, found.kept, found.unseen) == (10, 3, 0)
    assert "the newest 3 of them" in render(found, "f")


def test_rows_that_begin_anew_tell_nothing() -> None:
    pair = (LINE, SECOND)

    def run(number: int, first: int, last: int, bundle: str = LINE) -> Run:
        return Run(number, bundle, SECOND, 1.0, first, last)

    assert away([run(1, 1, 10), run(2, 13, 20), run(3, 5, 6)], pair) == 2
    assert away([run(1, 1, 10), run(2, 11, 90, "c"), run(3, 91, 99)], pair) == 0, "another pair's parts"


def test_a_part_without_a_row_has_no_place_in_the_count() -> None:
    run = Run(1, LINE, SECOND, 1.0)
    for row in (0, 7, 0, 9, 8):
        run.saw(row)
    assert (run.first_row, run.last_row, run.decided) == (7, 9, 3)


def test_a_file_that_is_no_book(tmp_path: Path) -> None:
    (tmp_path / "b.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(SinkError, match="cannot be read"):
        read_book(tmp_path / "b.sqlite")
    with pytest.raises(SinkError, match="no shadow has run"):
        read_book(tmp_path / "c.sqlite")


# ---- the report ------------------------------------------------------------------------------------------------------


def pages_of(*found: Comparison, second: str = SECOND) -> Pages:
    run = Run(1, LINE, second, 1.0, 1, len(found), len(found))
    return Pages([run], list(found), 0, 1)


def test_the_report_counts_every_kind_and_names_the_worst() -> None:
    near = said(Reason.ANOMALY, 1.1)
    found = report(
        pages_of(
            *(compared(seq, said(), said()) for seq in range(5)),
            *(compared(10, FAIL, FAIL), compared(11, said(), near), compared(12, FAIL, said(), "cam/1/12.png")),
            *(compared(13, POSE, said()), compared(14, POSE, POSE)),
        )
    )
    assert list(found.kinds.values()) == [5, 1, 1, 1, 2]
    assert found.undecided == {"line POSE, shadow PASS": 1, "line POSE, shadow POSE": 1}
    assert found.differ == 3
    assert [one.key.seq for one in found.worst] == [12, 11, 13]
    text = render(found, "/data/shadow")
    assert "l/cam/1/12  line FAIL 3 / 1 p 0.250, shadow PASS 0.5 / 1 p 0.250  cam/1/12.png" in text
    assert "line NO_DECISION(POSE), shadow PASS 0.5 / 1" in text
    assert "another verdict: 3, 30.00 %".replace(" %", "%") in text
    parsed = json.loads(json.dumps(to_json(found)))
    assert parsed["agreement"] == {
        "both_pass": 5,
        "both_fail": 1,
        "only_shadow_fails": 1,
        "only_shadow_passes": 1,
        "undecided": 2,
    }
    assert parsed["worst"][0]["shadow"] == {
        "outcome": "PASS",
        "reason": "NONE",
        "score": 0.5,
        "threshold": 1.0,
        "p_value": 0.25,
    }


def test_the_report_lists_only_so_many() -> None:
    found = report(pages_of(*(compared(seq, said(), FAIL) for seq in range(3 * WORST))))
    assert len(found.worst) == WORST


@pytest.mark.parametrize(
    ("pages", "says"),
    [
        (Pages((), (), 0, 0), "nothing was compared yet"),
        (pages_of(compared(0, said(), said()), second=LINE), "the very bundle that decides"),
        (pages_of(compared(0, said(), said())), "too few"),
        (pages_of(*[compared(0, said(), said())] * FEW), "`line-worker bundle activate LINE.TOML BUNDLE`"),
        (pages_of(compared(0, said(), FAIL)), "Where only the shadow fails"),
        (pages_of(compared(0, FAIL, said())), "would a defect get by"),
        (pages_of(compared(0, POSE, said())), "Where one is undecided"),
    ],
)
def test_what_to_do_next(pages: Pages, says: str) -> None:
    assert says in advice(report(pages))
    assert says in render(report(pages), "f")


@pytest.fixture
def line_toml(tmp_path: Path) -> Path:
    path = tmp_path / "line.toml"
    path.write_text(
        '[line]\nname = "l"\nruntime = "run"\ndata = "."\n[workers]\nbundle = "stub"\n'
        '[[cameras]]\nname = "cam"\ndeadline_ms = 500\nsource = {kind = "synthetic"}\n'
        '[[sinks]]\nkind = "shadow"\nbundle = "other.bundle"\n'
    )
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(["shadow", "report", *map(str, arguments)])
    captured = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, captured.out + captured.err


def test_the_command(line_toml: Path, tmp_path: Path, second: Second, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, line_toml)[0] == 3, "no shadow has run"
    bench = Bench(tmp_path, lambda: second).ready()
    assert bench.shadow._running() is not None
    bench.shadow.close()
    assert command(capsys, line_toml)[0] == 2, "nothing compared"
    bench = Bench(tmp_path, lambda: second).ready()
    bench.part(0)
    bench.shadow.close()
    code, text = command(capsys, line_toml, "--name", "shadow")
    assert (code, "1 parts compared" in text) == (0, True)
    bench = Bench(tmp_path, lambda: second).ready()
    bench.part(1, Reason.ANOMALY)
    bench.shadow.close()
    code, text = command(capsys, line_toml, "--json")
    assert (code, json.loads(text)["agreement"]["only_shadow_passes"]) == (1, 1)
    code, text = command(capsys, line_toml, "--name", "sahdow")
    assert (code, "choose one of: shadow" in text) == (3, True)


# ---- its place in the line -------------------------------------------------------------------------------------------


def test_the_configuration(tmp_path: Path) -> None:
    config = line(tmp_path)
    [sink] = config.sinks
    assert isinstance(make_sink(sink, config), Shadow)
    assert isinstance(sink, ShadowSink)
    assert (sink.device, sink.threads) == ("cpu", 1), "not the workers' GPU"
    with pytest.raises(ConfigError, match=r"sinks\[1\].bundle: is missing"):
        line(tmp_path, sinks=[{"kind": "shadow"}])


def test_on_another_host_it_needs_pictures_inside_messages(tmp_path: Path) -> None:
    for transport in ("inline", "ring"):
        keys = {"tcp": "192.0.2.1:5600", "keys": {"dir": "keys"}}
        config = line(tmp_path, camera={"transport": transport}, line=keys)
        if transport == "inline":
            check_sink(config, config.sinks[0])
        else:
            with pytest.raises(ConfigError, match='give them transport = "inline"'):
                check_sink(config, config.sinks[0])


@pytest.mark.parametrize("transport", ["ring", "inline"])
def test_its_pictures_are_in_the_memory_bound(tmp_path: Path, transport: str) -> None:
    camera = {"transport": transport}
    without, beside = (memory_bound(line(tmp_path, camera=camera, **more)) for more in ({"sinks": []}, {}))
    waiting = 1024 if transport == "inline" else 0
    assert beside.sinks - without.sinks == (SHADOW_FRAMES + 1 + 4 + waiting) * 1_000_000
    assert beside.hub - without.hub == waiting * 1_000_000
