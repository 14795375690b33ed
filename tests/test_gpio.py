"""Digital outputs as processes: whoever is killed or stopped, the lines reject. The chip's twin is a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.config import Config, GpioSink, parse
from line_worker.errors import ConfigError, SinkError
from line_worker.sink.gpio import Gpio
from line_worker.wire.messages import HubState
from plc_station import outcome, sink_process, wait_for

LINES = {"pass_line": 1, "reject_line": 2, "heartbeat_line": 3, "stop_line": 4}
SAFE = {"pass": False, "reject": True, "heartbeat": False, "stop": True}


def settings(folder: Path, **changes: Any) -> GpioSink:
    chip = {"kind": "gpio", "chip": str(folder / "lines.jsonl"), "pass_ms": 5000}
    return GpioSink.model_validate(chip | LINES | changes)


def shown(folder: Path) -> list[dict[str, Any]]:
    """Return what the lines have shown so far, without the time."""
    found = (folder / "lines.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "at"} for line in found]


def last(folder: Path) -> dict[str, Any]:
    return shown(folder)[-1]


def beat(sink: Gpio, number: int, state: int = 2) -> None:
    sink.beat(HubState(1, number, state, "", "beef" * 16, 0, 1, {}), time.monotonic())
    sink.poll(time.monotonic())


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Gpio]:
    found = Gpio(settings(tmp_path), line(pass_line=1))
    found.open()
    yield found
    found.close()


def keeper_of(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def passing(sink: Gpio, folder: Path) -> None:
    """Have the PASS line on, for a long pulse."""
    beat(sink, 1)
    assert sink.deliver(outcome(0), time.monotonic())
    wait_for(lambda: last(folder)["pass"])


def test_the_lines_follow_the_parts(sink: Gpio, tmp_path: Path) -> None:
    assert last(tmp_path) == SAFE
    passing(sink, tmp_path)
    assert last(tmp_path) == {"pass": True, "reject": False, "heartbeat": True, "stop": False}
    sink.deliver(outcome(1, reason=1), time.monotonic())
    wait_for(lambda: not last(tmp_path)["pass"])
    sink.deliver(outcome(0), time.monotonic())  # sent again: it is the past
    beat(sink, 2)
    time.sleep(0.05)
    assert last(tmp_path)["reject"]
    assert sink.reachable() == (True, "")


def test_closing_rejects(sink: Gpio, tmp_path: Path) -> None:
    passing(sink, tmp_path)
    start = time.monotonic()
    sink.close()
    sink.close()
    assert time.monotonic() - start < 2
    assert last(tmp_path) == SAFE
    assert not sink.reachable()[0]


def test_a_hub_that_is_silent_rejects(sink: Gpio, tmp_path: Path) -> None:
    passing(sink, tmp_path)
    wait_for(lambda: not last(tmp_path)["pass"])
    assert last(tmp_path) == {"pass": False, "reject": True, "heartbeat": True, "stop": True}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_keeper_that_is_killed_or_hangs_leaves_no_pass_behind(
    sink: Gpio, tmp_path: Path, how: signal.Signals
) -> None:
    passing(sink, tmp_path)
    os.kill(keeper_of(os.getpid()), how)
    with pytest.raises(SinkError, match=r"the process that holds the lines has (ended|hung); every line rejects"):
        wait_for(lambda: bool(beat(sink, 2)))
    assert last(tmp_path) == SAFE


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_gpio import beat, line, outcome, settings
from line_worker.sink.gpio import Gpio
sink = Gpio(settings(Path(sys.argv[2]), pass_ms=10_000), line(pass_line=1))
sink.open()
for number in range(10**6):
    beat(sink, number)
    if number == 1:
        sink.deliver(outcome(0, left_ms=10_000), time.monotonic())
    time.sleep(0.02)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sink_that_is_killed_or_stopped_leaves_no_pass_behind(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command) as holder:
        try:
            wait_for(lambda: (tmp_path / "lines.jsonl").exists() and shown(tmp_path) and last(tmp_path)["pass"])
            holder.send_signal(how)
            wait_for(lambda: not last(tmp_path)["pass"], 5)
            assert (last(tmp_path)["reject"], last(tmp_path)["stop"]) == (True, True)
        finally:
            holder.kill()


LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", rate = 20, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
kind = "gpio"
chip = "{folder}/lines.jsonl"
pass_line = 1
reject_line = 2
heartbeat_line = 3
pass_ms = 5000
"""


@pytest.mark.long
def test_a_line_whose_sink_is_killed_rejects_and_goes_on_and_its_end_rejects(short_path: Path) -> None:
    (short_path / "line.toml").write_text(LINE_TOML.format(folder=short_path))
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)

    def parts() -> int:
        return sum(one["pass"] for one in shown(short_path)) if (short_path / "lines.jsonl").exists() else 0

    try:
        wait_for(lambda: parts() > 3, 60)
        pid = sink_process(short_path, "gpio")
        keeper = keeper_of(pid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{keeper}").exists())
        after = shown(short_path).index(SAFE, 1)  # the first one is the beginning
        assert not shown(short_path)[after]["pass"]
        before = parts()
        wait_for(lambda: parts() > before + 3, 60)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told[-2000:]
        assert last(short_path) == SAFE
    finally:
        process.kill()
        process.communicate()


# ---- a real chip -----------------------------------------------------------------------------------------------------

CHIP = os.environ.get("GPIO_SIM", "")  # a chip of the kernel's gpio-sim with at least five lines


@pytest.mark.skipif(
    not CHIP,
    reason="no simulated chip: modprobe gpio-sim, make one in /sys/kernel/config/gpio-sim, GPIO_SIM=/dev/gpiochipN",
)
def test_on_a_chip_of_the_kernel(tmp_path: Path) -> None:
    gpiod = pytest.importorskip("gpiod", reason="gpiod is missing: pip install 'line-worker[gpio]'")
    sink = Gpio(settings(tmp_path, chip=CHIP), line(pass_line=1))
    sink.open()
    try:
        with gpiod.Chip(CHIP) as chip:
            assert {chip.get_line_info(line).consumer for line in LINES.values()} == {"line-worker"}
        beat(sink, 1)
        sink.deliver(outcome(0), time.monotonic())
        [value] = Path("/sys/devices/platform").glob("gpio-sim.*/gpiochip*/sim_gpio1/value")
        wait_for(lambda: value.read_text().strip() == "1")
    finally:
        sink.close()


def test_a_chip_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    pytest.importorskip("gpiod", reason="gpiod is missing: pip install 'line-worker[gpio]'")
    sink = Gpio(settings(tmp_path, chip="/dev/gpiochip-none"), line(pass_line=1))
    with pytest.raises(
        SinkError, match=r"sink gpio: /dev/gpiochip-none: lines 1, 2, 3, 4 cannot be taken .*check chip"
    ):
        sink.open()


def test_without_gpiod_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from line_worker.sink.gpio.chip import Wiring, chip_of

    monkeypatch.setitem(sys.modules, "line_worker.sink.gpio.linux", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[gpio\]"):
        chip_of(Wiring("/dev/gpiochip0", {"pass": 1}, ()))


# ---- the configuration -----------------------------------------------------------------------------------------------


def line(cameras: tuple[str, ...] = ("top",), **sink: Any) -> Config:
    named = [{"name": name, "deadline_ms": 500, "source": {"kind": "synthetic"}} for name in cameras]
    return parse(
        {
            "line": {"name": "line-1", "runtime": "run", "data": "data"},
            "cameras": named,
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "gpio"} | sink],
        }
    )


@pytest.mark.parametrize(
    ("sink", "says"),
    [
        ({}, "give pass_line or reject_line"),
        ({"pass_line": 1, "stop_line": 1}, "two of its lines are the same"),
        ({"pass_line": -1}, "pass_line"),
        ({"pass_line": 1, "active_low": ["up"]}, "active_low"),
        ({"pass_line": 1, "pass_ms": 0}, "pass_ms"),
        ({"pass_line": 1, "camera": "side"}, "'gpio': there is no camera 'side' (there are: top)"),
    ],
)
def test_what_the_outputs_may_not_be(sink: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as problem:
        line(**sink)
    assert says in str(problem.value)


def test_parts_of_several_cameras_cannot_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="cannot tell the parts of several cameras apart; set camera"):
        line(("top", "side"), pass_line=1)
    assert line(("top", "side"), pass_line="GATE_OPEN", camera="side").sinks[0].name == "gpio"
