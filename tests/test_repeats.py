"""Logs: what repeats is counted instead of shown, nothing else is lost, every line about a part has its key."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from line_worker.repeats import BURST, KINDS, RepeatLimit


class Log:
    """A limit with a clock that is set by hand; `say` returns the line as it is shown, None when it is left out."""

    def __init__(self, burst: int = 3, period_s: float = 10.0) -> None:
        self.now = 0.0
        self._limit = RepeatLimit(lambda: self.now, burst, period_s)

    def say(self, event: str, **fields: Any) -> dict[str, Any] | None:
        try:
            return dict(self._limit(None, "warning", {"level": "warning", "event": event, **fields}))
        except structlog.DropEvent:
            return None


def test_what_repeats_is_shown_a_few_times_and_then_counted() -> None:
    log = Log()
    shown = [log.say("no decision", key=f"l/c/1/{seq}", reason="CRC") for seq in range(8)]
    assert [line["key"] for line in shown if line] == ["l/c/1/0", "l/c/1/1", "l/c/1/2"]
    assert not any("repeated" in line for line in shown if line)
    log.now = 10.0
    line = log.say("no decision", key="l/c/1/8", reason="CRC")
    assert line is not None
    assert (line["key"], line["repeated"]) == ("l/c/1/8", 5)
    line = log.say("no decision", key="l/c/1/9", reason="CRC")
    assert line is not None
    assert "repeated" not in line, "they are told once"


@pytest.mark.parametrize(
    "other",
    [
        {"event": "another"},
        {"level": "error"},
        {"key": "l/other/1/7"},
        {"reason": "GAP"},
        {"camera": "c"},
        {"sink": "store"},
        {"worker": "worker-1"},
    ],
)
def test_another_kind_of_line_is_shown(other: dict[str, str]) -> None:
    log = Log()
    one = {"event": "no decision", "level": "warning", "key": "l/c/1/7", "reason": "CRC"}
    while log.say(**one):
        pass
    assert log.say(**one | {"key": "l/c/2/8"}) is None, "another part is no other kind"
    assert log.say(**one | other) is not None


def test_a_traceback_is_always_shown() -> None:
    log = Log(burst=1)
    assert all(log.say("ended by an error", exc_info=True) for _ in range(5))


def test_many_kinds_take_bounded_memory() -> None:
    log = Log()
    for number in range(3 * KINDS):
        log.say(f"event {number}")
    assert len(log._limit._kinds) == KINDS


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), max_size=60))
def test_every_line_is_shown_or_counted(lines: list[tuple[str, float]]) -> None:
    log = Log(burst=2, period_s=4.0)
    told = {"a": 0, "b": 0}
    for event, later in lines:
        log.now += later
        line = log.say(event)
        told[event] += 0 if line is None else 1 + line.get("repeated", 0)
    left = {name[2]: kind.left_out for name, kind in log._limit._kinds.items()}
    for event in "ab":
        assert told[event] + left.get(event, 0) == sum(said == event for said, _ in lines)


def test_a_process_logs_json_lines_with_the_key_and_not_too_many() -> None:
    code = (
        "import structlog; from line_worker.health import configure_logging\n"
        "configure_logging('hub')\n"
        "for seq in range(31): structlog.get_logger().warning('no decision', key=f'l/c/1/{seq}', reason='CRC')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["key"] for line in lines] == [f"l/c/1/{seq}" for seq in range(BURST)]
    assert {(line["role"], line["level"], line["reason"]) for line in lines} == {("hub", "warning", "CRC")}
