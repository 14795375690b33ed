"""A running line changes its bundle: real processes, real parts, no gap, and the old one stays when the new is bad."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker.activation import bundle_sha
from line_worker.approving import check
from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.errors import BundleError
from line_worker.hub.run import Hub
from line_worker.images import save_png
from line_worker.rehearsal import Rehearsal
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.wire.channels import Channel
from line_worker.wire.links import WORK
from line_worker.wire.messages import Frame, FrameKey
from line_worker.wire.sockets import Wire
from line_worker.worker.standby import Standby

COMMAND = str(Path(sys.executable).parent / "line-worker")


def remade(bundle: Path, to: Path, **changes: Any) -> Path:
    """Return a copy of `bundle` whose manifest differs: the same weights under another name."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_text("utf-8"))
    (to / "manifest.json").write_text(json.dumps({**manifest, **changes}), "utf-8")
    return to


@pytest.fixture
def second(tiny_bundle: Path, tmp_path: Path) -> Path:
    return remade(tiny_bundle, tmp_path / "second.bundle", created="later")


def line(folder: Path, bundle: Path, parts: int = 1, count: int = 2) -> Config:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(parts):
        save_png(images / f"{number:03d}.png", draw_part(rng, size=(240, 320)).image)
    source = {"kind": "folder", "path": str(images), "rate": 8, "loop": True}
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{"name": "camera", "deadline_ms": 5000, "window": 64, "max_frame_mb": 1, "source": source}],
            "workers": {"bundle": str(bundle), "count": count, "threads": 1, "runtime": "torch", "batch": 2},
        }
    )


class Finished(Exception):
    """The change has come to its end and enough parts were seen since."""


def rehearsed(config: Config, folder: Path, bundle: Path) -> tuple[subprocess.CompletedProcess[str], Rehearsal]:
    """Run the line, activate `bundle` while parts come, and stop it some parts later."""
    path = folder / "line.json"
    path.write_text(config.model_dump_json(), "utf-8")
    rehearsal = Rehearsal(config, folder / "line.log")
    command: list[subprocess.Popen[str]] = []
    seen_at_end: list[int] = []

    def on_turn() -> None:
        seen = len(rehearsal.watcher.outcomes)
        if not command and seen >= 5:
            words = [COMMAND, "bundle", "activate", str(path), str(bundle)]
            command.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        if command and command[0].poll() is not None and not seen_at_end:
            seen_at_end.append(seen)
        if seen_at_end and seen >= seen_at_end[0] + 10:
            raise Finished

    with pytest.raises(Finished):
        rehearsal.run(on_turn, seconds=120)
    out, _ = command[0].communicate()
    return subprocess.CompletedProcess(command[0].args, command[0].returncode, out, ""), rehearsal


def judged_by(config: Config) -> list[str]:
    """Return the journal's bundles in the order of sequence numbers; the books balance, and nothing was refused."""
    assert audit(config.journal_path).balanced
    with closing(sqlite3.connect(config.journal_path)) as db:
        rows = db.execute("SELECT bundle, verdict FROM outcomes ORDER BY epoch, seq").fetchall()
    late = Counter(verdict for _, verdict in rows)["NO_DECISION"]
    assert late == sum(1 for bundle, verdict in rows if verdict == "NO_DECISION" and not bundle)
    return [bundle for bundle, _ in rows if bundle]


def test_row_17_a_running_line_changes_its_bundle_without_losing_a_part(
    tiny_bundle: Path, second: Path, tmp_path: Path
) -> None:
    config = line(tmp_path, tiny_bundle, parts=6)
    done, rehearsal = rehearsed(config, tmp_path, second)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("done")
    bundles = judged_by(config)
    old, new = bundle_sha(tiny_bundle), bundle_sha(second)
    assert set(bundles) == {old, new}
    assert bundles[0] == old
    assert bundles[-8:] == [new] * 8
    reasons = {o.reason for o in rehearsal.watcher.outcomes[:-3]}  # the last ones may have been stopped
    assert reasons <= {0, 1}, "nothing was late"
    again = Rehearsal(config, tmp_path / "again.log")
    again.run(seconds=3)
    assert {o.bundle for o in again.watcher.outcomes if o.bundle} == {new}, "what was activated starts again"


def test_row_16_a_damaged_bundle_changes_nothing(tiny_bundle: Path, second: Path, tmp_path: Path) -> None:
    config = line(tmp_path, tiny_bundle, parts=6, count=1)
    (second / "weights.safetensors").write_bytes(b"damaged")
    done, rehearsal = rehearsed(config, tmp_path, second)
    assert done.returncode == 3
    assert set(judged_by(config)) == {bundle_sha(tiny_bundle)}
    assert {o.reason for o in rehearsal.watcher.outcomes[:-3]} <= {0, 1}


def test_row_16_without_a_bundle_that_can_be_loaded_parts_are_refused_for_that(second: Path, short_path: Path) -> None:
    (second / "weights.safetensors").write_bytes(b"damaged")
    config = line(short_path, second)
    config.line.runtime.mkdir()
    hub = Hub(config, 100.0)
    try:
        hub.ledger.open_epoch("camera", 1)
        hub.ledger.announced_up_to("camera", 1, 0, 100.0)
        header = (0.0, 200.0, (4, 5), "uint8", "gray", 0, "ring")
        hub.ledger.announce(Frame(FrameKey("t", "camera", 1, 0), *header), b"", 100.0)
        hub.turn(101.0)
    finally:
        hub.close()
    with closing(sqlite3.connect(config.journal_path)) as db:
        assert [Reason(r) for (r,) in db.execute("SELECT reason FROM outcomes")] == [Reason.NO_MODEL]


# what the hub tells its workers


class Scripted:
    """A hub whose workers are played by the test: what they have heard, by name."""

    def __init__(self, config: Config) -> None:
        config.line.runtime.mkdir()
        self.hub, self.wires, self.now = Hub(config, 100.0), [], 100.0
        self.channels: dict[str, Channel] = {}
        self.heard: dict[str, list[object]] = {}

    def worker(self, name: str, session: int, bundle: str) -> None:
        wire = Wire(self.hub.workers.changeover.config.line.runtime)
        self.wires.append(wire)
        self.channels[name], self.heard[name] = wire.connect(WORK, name), []
        self.say(name, m.WorkerHello(name, session, 2, bundle, 10_000.0, "cpu"))

    def say(self, name: str, message: m.Message) -> None:
        end = time.monotonic() + 10
        while not self.channels[name].send(message):
            assert time.monotonic() < end
            time.sleep(0.002)

    def until(self, happens: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not happens():
            assert time.monotonic() < end
            self.now += 0.01
            self.hub.turn(self.now)
            for name, channel in self.channels.items():
                self.heard[name] += [one.message for one in channel.receive()]
            time.sleep(0.002)

    def told(self, name: str, kind: type[object]) -> list[object]:
        return [one for one in self.heard[name] if isinstance(one, kind)]

    def close(self) -> None:
        self.hub.close()
        for wire in self.wires:
            wire.close()


@pytest.fixture
def scripted(tiny_bundle: Path, short_path: Path) -> Iterator[Scripted]:
    found = Scripted(line(short_path, tiny_bundle))
    yield found
    found.close()


def test_when_one_worker_cannot_prepare_all_keep_the_old_bundle_and_drop_the_new(
    scripted: Scripted, tiny_bundle: Path, second: Path
) -> None:
    old, changeover = bundle_sha(tiny_bundle), scripted.hub.workers.changeover
    for number in (1, 2):
        scripted.worker(f"w{number}", number, old)
        scripted.until(lambda number=number: len(scripted.hub.workers) == number)
    new = changeover.begin(second, scripted.now)
    scripted.until(lambda: bool(scripted.told("w1", m.Prepare)))
    scripted.say("w1", m.Prepared(1, new, True, ""))
    scripted.until(lambda: bool(scripted.told("w2", m.Prepare)))
    scripted.say("w2", m.Prepared(2, new, False, "its golden images differ"))
    scripted.until(lambda: all(len(scripted.told(name, m.Prepare)) == 2 for name in ("w1", "w2")))
    assert {scripted.told(name, m.Prepare)[-1] for name in ("w1", "w2")} == {m.Prepare("", "")}
    assert (changeover.status() or {})["detail"] == "its golden images differ"
    assert changeover.sha == old
    assert not any(scripted.told(name, m.Adopt) for name in ("w1", "w2"))


def test_workers_adopt_the_bundle_one_after_the_other(scripted: Scripted, tiny_bundle: Path, second: Path) -> None:
    for number in (1, 2):
        scripted.worker(f"w{number}", number, bundle_sha(tiny_bundle))
        scripted.until(lambda number=number: len(scripted.hub.workers) == number)
    new = scripted.hub.workers.changeover.begin(second, scripted.now)
    for number in (1, 2):
        scripted.until(lambda name=f"w{number}": bool(scripted.told(name, m.Prepare)))
        scripted.say(f"w{number}", m.Prepared(number, new, True, ""))

    def adopted() -> list[str]:
        return [name for name in ("w1", "w2") if scripted.told(name, m.Adopt)]

    scripted.until(lambda: bool(adopted()))
    [first] = adopted()
    scripted.say(first, m.WorkerHello(first, 11, 2, new, 10_000.0, "cpu"))
    scripted.until(lambda: len(adopted()) == 2)
    other = "w2" if first == "w1" else "w1"
    scripted.say(other, m.WorkerHello(other, 12, 2, new, 10_000.0, "cpu"))
    scripted.until(lambda: (scripted.hub.workers.changeover.status() or {})["phase"] == "done")
    assert scripted.hub.workers.bundle == new


# before the line is asked


def test_a_bundle_for_other_pictures_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = remade(tiny_bundle, tmp_path / "other", input={"shape": [10, 20], "dtype": "uint8"})
    with pytest.raises(BundleError, match=r"is for pictures of 10 x 20 uint8, the line's are 240 x 320 uint8"):
        check(line(tmp_path, tiny_bundle), other)


def test_a_bundle_that_does_not_reproduce_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text("utf-8"))
    golden = [{**one, "score": (one["score"] or 0.0) + 5} for one in manifest["golden"]]
    other = remade(tiny_bundle, tmp_path / "other", golden=golden)
    with pytest.raises(BundleError):
        check(line(tmp_path, tiny_bundle), other)


# in the worker


def test_standby_says_why_it_cannot(tiny_bundle: Path, tmp_path: Path) -> None:
    workers = line(tmp_path, tiny_bundle).workers
    missing = Standby(workers, str(tmp_path / "nothing"), "x", 1)
    other = Standby(workers, str(tiny_bundle), "x" * 64, 1)
    right = Standby(workers, str(tiny_bundle), bundle_sha(tiny_bundle), 2)
    for standby in (missing, other, right):
        standby._thread.join(60)
        assert standby.finished
    assert missing.model is None
    assert "BundleError" in missing.why_not
    assert "that was asked for" in other.why_not
    assert right.why_not == ""
    assert right.model is not None
