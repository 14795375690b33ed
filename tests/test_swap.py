"""A change of bundle, step by step: nobody moves before everybody can, one after the other, and a failure keeps all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from line_worker.activation import NAME, absent_bundles, activated, bundle_sha, keep
from line_worker.config import Config, parse
from line_worker.errors import ConfigError
from line_worker.hub.dispatch import Seat
from line_worker.hub.swap import PREPARE_S, Phase, Swap

OLD, NEW = "o" * 64, "n" * 64


def seat(session: int, bundle: str = OLD) -> Seat:
    return Seat(b"p", f"w{session}", session, 2, 0.4, "cpu", 0.0, bundle=bundle)


def swap() -> Swap:
    return Swap(OLD, NEW, "/new", 10.0)


def prepare(change: Swap, seats: list[Seat]) -> None:
    """Let every worker load the new bundle, one after the other."""
    for one in seats:
        assert change.to_prepare(seats) is one
        change.prepared(one.session, "")


def test_every_worker_is_told_once_and_one_at_a_time() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    assert change.to_prepare(seats) is seats[0]
    assert change.to_prepare(seats) is None, "the first one is loading"
    change.prepared(1, "")
    assert change.to_prepare(seats) is seats[1]
    change.prepared(2, "")
    assert change.to_prepare(seats) is None
    late = seat(3)
    assert change.to_prepare([*seats, late]) is late


def test_a_worker_that_is_gone_while_it_loads_holds_up_nobody() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    assert change.to_prepare(seats) is seats[0]
    assert change.to_prepare(seats[1:]) is seats[1]


def test_nobody_moves_before_everybody_can() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    change.to_prepare(seats)
    change.prepared(1, "")
    change.to_prepare(seats)
    change.turn(seats, 11.0)
    assert (change.phase, change.mover(seats)) == (Phase.PREPARING, None)
    assert change.allows(OLD)
    assert not change.allows(NEW)
    change.prepared(2, "")
    change.turn(seats, 12.0)
    assert change.phase is Phase.MOVING
    assert change.allows(OLD)
    assert change.allows(NEW)


def test_they_move_one_after_the_other() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    prepare(change, seats)
    change.turn(seats, 11.0)
    assert change.mover(seats) is seats[0]
    seats = [seats[1], seat(3, NEW)]
    change.turn(seats, 12.0)
    assert change.mover(seats) is seats[0]
    seats = [seat(3, NEW), seat(4, NEW)]
    change.turn(seats, 13.0)
    assert change.phase is Phase.DONE
    assert not change.running
    assert not change.allows(OLD)


def test_one_that_cannot_keeps_all_with_the_old_bundle() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    change.to_prepare(seats)
    change.prepared(1, "")
    change.to_prepare(seats)
    change.prepared(2, "golden image differs")
    assert (change.phase, change.detail) == (Phase.FAILED, "golden image differs")
    change.prepared(2, "")
    change.turn(seats, 11.0)
    assert change.phase is Phase.FAILED
    assert change.mover(seats) is None
    assert not change.allows(NEW)


def test_it_fails_when_it_takes_too_long() -> None:
    change, seats = swap(), [seat(1)]
    change.to_prepare(seats)
    change.turn(seats, 10.0 + PREPARE_S)
    assert change.phase is Phase.PREPARING
    change.turn(seats, 10.1 + PREPARE_S)
    assert change.phase is Phase.FAILED
    assert "0 of 1 workers" in change.detail


def test_every_worker_has_that_time() -> None:
    change, seats = swap(), [seat(1), seat(2)]
    change.to_prepare(seats)
    change.prepared(1, "")
    change.turn(seats, 200.0)
    change.to_prepare(seats)
    change.turn(seats, 200.0 + PREPARE_S)
    assert change.phase is Phase.PREPARING
    change.turn(seats, 200.1 + PREPARE_S)
    assert "1 of 2 workers" in change.detail


def test_without_a_worker_nothing_moves() -> None:
    change = swap()
    change.turn([], 11.0)
    assert change.phase is Phase.PREPARING


def test_a_worker_that_comes_back_with_the_old_bundle_while_they_move_has_to_prepare_first() -> None:
    change, first = swap(), seat(1)
    change.to_prepare([first])
    change.prepared(1, "")
    change.turn([first], 11.0)
    late = seat(9)
    assert change.mover([late]) is None
    assert change.to_prepare([late]) is late
    change.prepared(9, "")
    assert change.mover([late]) is late


# what is kept


def config_in(folder: Path) -> Config:
    source = {"kind": "synthetic", "part": "noise"}
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder)},
            "cameras": [{"name": "c", "deadline_ms": 100, "source": source}],
            "workers": {"bundle": str(folder / "first")},
        }
    )


def test_what_was_activated_is_what_starts_again(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert activated(config) is config
    second = keep(config, tmp_path / "second")
    assert activated(config) == second
    assert second.workers.bundle == tmp_path / "second"
    third = keep(second, tmp_path / "third")
    assert activated(config) == third


def test_another_bundle_in_line_toml_has_its_way(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    keep(config, tmp_path / "second")
    edited = config.model_copy(update={"workers": config.workers.model_copy(update={"bundle": tmp_path / "edited"})})
    assert activated(edited) is edited
    assert activated(keep(edited, tmp_path / "fourth")).workers.bundle == tmp_path / "fourth"
    assert activated(edited).workers.bundle == tmp_path / "fourth"


def test_the_bundle_that_must_be_there_is_the_one_that_was_activated(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    raw = json.loads(config.model_dump_json())
    assert [problem.split(":")[0] for problem in absent_bundles(raw, tmp_path)] == [
        f"workers.bundle = '{tmp_path}/first'"
    ]
    keep(config, tmp_path / "second")
    [problem] = absent_bundles(raw, tmp_path)
    assert problem.startswith(f"workers.bundle = '{tmp_path}/second': is not there")
    (tmp_path / "second").mkdir()
    assert absent_bundles(raw, tmp_path) == [], "the one that it replaced may be gone"


@pytest.mark.parametrize(
    "raw", [{}, {"workers": 3, "recipes": 4, "line": []}, {"workers": {"bundle": 5}, "recipes": [6]}]
)
def test_what_else_is_wrong_with_a_configuration_is_said_elsewhere(raw: dict[str, object], tmp_path: Path) -> None:
    assert absent_bundles(raw, tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"bundle": 1, "replaces": "x"}', b"\xff"])
def test_which_bundle_was_approved_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ConfigError, match=r"(?s)active\.json.*remove it to go back"):
        activated(config_in(tmp_path))


def test_where_nothing_can_be_kept_the_line_keeps_its_bundle(tmp_path: Path) -> None:
    config = config_in(tmp_path / "missing")
    with pytest.raises(ConfigError, match="the line keeps its bundle"):
        keep(config, tmp_path / "second")


def test_a_bundle_is_named_by_its_manifest(tmp_path: Path) -> None:
    assert bundle_sha(tmp_path) == ""
    (tmp_path / "manifest.json").write_bytes(b"{}")
    assert bundle_sha(tmp_path) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
