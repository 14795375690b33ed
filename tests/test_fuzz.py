"""A short round of hostile input through every layer, and the fuzzer itself; `make fuzz` is the long round."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from bench.fuzz import run
from bench.fuzz.making import KINDS, damaged, hostile_parts, sample
from line_worker.errors import DecodeError
from line_worker.wire import messages as m

SHORT = {"messages": 3000, "images": 150, "bundles": 700, "recordings": 60, "sockets": 60}


@pytest.mark.parametrize("layer", SHORT)
def test_hostile_input_is_refused_and_nothing_else_happens(layer: str) -> None:
    counts, failed = run.fuzz({layer: SHORT[layer]})
    assert failed == ""
    assert counts[layer].total() == SHORT[layer]
    assert layer in ("sockets", "recordings") or counts[layer]["refused"] > SHORT[layer] / 20
    assert len(counts[layer]) > 1, "some of it is sound, or no decoder was reached"


def test_samples_of_every_message_are_sound() -> None:
    for cls in KINDS:
        message = sample(cls, Random(1))
        assert m.from_parts(m.to_parts(message)) == message


def test_a_case_is_a_function_of_its_number() -> None:
    assert hostile_parts(run.generator("messages", 5)) == hostile_parts(run.generator("messages", 5))
    assert damaged(bytes(100), Random(3)) == damaged(bytes(100), Random(3))


def test_what_a_decoder_must_not_do_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(parts: list[bytes]) -> m.Message:
        if not parts:
            return parts[0]  # type: ignore[return-value]
        raise DecodeError("refused")

    monkeypatch.setattr(m, "from_parts", careless)
    counts, failed = run.fuzz({"messages": 5000})
    assert failed.startswith("messages, case ")
    assert "IndexError" in failed
    assert counts["messages"].total() < 5000


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    state = tmp_path / "fuzz.json"
    first, _ = run.fuzz({"messages": 200}, state)
    assert json.loads(state.read_text())["messages"] == first["messages"]
    both, _ = run.fuzz({"messages": 500}, state)
    at_once, _ = run.fuzz({"messages": 500})
    assert both["messages"] == at_once["messages"]
