"""A line over two hosts: network namespaces with a cable between them that loses packets, resets and is cut.

Needs root, `ip` and `nft` (Debian: nftables, iproute2); `tc netem` is not needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.auditing import Audit, audit
from line_worker.config import Config, parse
from line_worker.errors import ConfigError
from line_worker.joining import check_cameras, check_sink
from line_worker.supervisor import Supervisor
from line_worker.wire.curve import pair
from line_worker.wire.hosts import is_here
from line_worker.wire.keys import create

HERE, THERE = "10.203.77.1", "10.203.77.2"
PARTS, RATE = 240, 30
LOSS = "meta l4proto tcp numgen random mod 100 < 2 drop"
CUT = "drop"
RESET = "meta l4proto tcp reject with tcp reset"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def _other_host() -> Iterator[str]:
    """Yield the name of a network namespace that a cable joins to this one."""
    name = f"lw{os.getpid() % 100_000}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _run("ip", "addr", "add", f"{HERE}/30", "dev", f"{name}a")
        _run("ip", "link", "set", f"{name}a", "up")
        for words in (f"addr add {THERE}/30 dev {name}b", f"link set {name}b up", "link set lo up"):
            _run("ip", "netns", "exec", name, "ip", *words.split())
        yield name
    finally:
        for words in (["link", "del", f"{name}a"], ["netns", "del", name]):
            subprocess.run(["ip", *words], check=False, capture_output=True, timeout=20)


class Cable:
    """The rules for what leaves and enters the other host."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.set(LOSS)

    def set(self, *rules: str) -> None:
        text = "flush ruleset\ntable inet cable {\n"
        for hook in ("input", "output"):
            own = rules if hook == "input" or RESET not in rules else [r for r in rules if r != RESET]
            text += f"chain {hook} {{ type filter hook {hook} priority 0; {''.join(f'{r}; ' for r in own)}}}\n"
        subprocess.run(
            ["ip", "netns", "exec", self._name, "nft", "-f", "-"], input=text + "}\n", text=True, check=True, timeout=20
        )


@pytest.fixture
def other_host() -> Iterator[str]:
    command = (
        f"as root, with nftables and iproute2 installed: {Path(sys.executable).name} -m pytest tests/test_hosts.py"
    )
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nft"):
        pytest.skip(f"network namespaces need root, ip and nft; run {command}")
    with contextlib.ExitStack() as stack:
        try:
            name = stack.enter_context(_other_host())
            Cable(name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here ({error.stderr!r:.100}); run {command}")
        yield name


def _config(folder: Path, **camera: Any) -> Config:
    source = {"kind": "synthetic", "part": "noise", "parts": PARTS, "rate": RATE, "width": 160, "height": 120}
    fields = {"name": "far", "deadline_ms": 10_000, "window": 200, "max_frame_mb": 0.1, "source": source}
    return parse(
        {
            "line": {
                "name": "t",
                "runtime": str(folder / "run"),
                "data": str(folder / "data"),
                "tcp": f"{HERE}:5600",
                "keys": {"dir": str(folder / "keys")},
            },
            "cameras": [fields | {"transport": "inline"} | camera],
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "log", "path": str(folder / "outcomes.jsonl")}],
        }
    )


def _role_there(host: str, folder: Path, config: Config, *role: str) -> subprocess.Popen[bytes]:
    there = config.model_copy(update={"line": config.line.model_copy(update={"runtime": folder / "run-there"})})
    path = folder / "there.json"
    path.write_text(there.model_dump_json())
    argv = ["ip", "netns", "exec", host, sys.executable, "-m", "line_worker.role", str(path), *role]
    with (folder / f"{role[0]}-there.log").open("ab") as log:
        return subprocess.Popen(argv, stderr=log)


def _books(config: Config) -> Audit:
    return audit(config.journal_path)


@pytest.mark.long
def test_source_and_worker_on_another_host_with_loss_resets_and_a_partition(tmp_path: Path, other_host: str) -> None:
    for name in ("hub", "source", "worker", "sink"):
        create(tmp_path / "keys", name, name, pair)
    config, cable = _config(tmp_path), Cable(other_host)
    supervisor = Supervisor(config, tmp_path / "line.log")
    supervisor.start(sources=False)
    supervisor.children = [child for child in supervisor.children if child.role != "source"]
    assert supervisor.wait_ready(60)

    def until(ready: Callable[[], bool], patience_s: float = 60.0) -> None:
        end = time.monotonic() + patience_s
        while not ready():
            assert time.monotonic() < end, (tmp_path / "line.log").read_text()[-3000:]
            supervisor.turn(0.05)

    def pause(seconds: float) -> None:
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() >= end)

    with _role_there(other_host, tmp_path, config, "worker", "7") as worker:
        with _role_there(other_host, tmp_path, config, "source", "far") as source:
            until(lambda: _books(config).announced >= 60)
            cable.set(CUT)
            pause(2.0)
            cable.set(LOSS)
            known = _books(config).announced
            until(lambda: _books(config).announced >= known + 30)
            cable.set(RESET)
            pause(0.5)
            cable.set(LOSS)
            until(lambda: source.poll() is not None)
        assert source.returncode == 0
        worker.terminate()
        until(lambda: worker.poll() is not None)
    assert supervisor.stop() == 0
    [epoch] = _books(config).epochs
    assert epoch.balanced, "every announced part has exactly one outcome"
    assert epoch.announced == PARTS
    assert epoch.passed > PARTS / 2, epoch.no_decision
    outcomes = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert len(outcomes) == PARTS
    assert {outcome["worker"] for outcome in outcomes} >= {"worker-0", "worker-7"}, "both have judged"
    assert "connection is made anew" in (tmp_path / "source-there.log").read_text(), "and its source came back"


# ---- what cannot be on another host ----------------------------------------------------------------------------------


def test_shared_memory_and_the_store_stay_on_the_hubs_host(tmp_path: Path) -> None:
    config = _config(tmp_path, transport="ring")
    assert not is_here(HERE)
    with pytest.raises(ConfigError, match=r'cameras far have transport = "ring".*give them transport = "inline"'):
        check_cameras(config, "worker-0", config.cameras)
    check_cameras(_config(tmp_path), "worker-0", _config(tmp_path).cameras)
    raw = config.model_dump(mode="json") | {"sinks": [{"kind": "store"}]}
    with_store = parse(raw)
    with pytest.raises(ConfigError, match="run the store on the hub's host"):
        check_sink(with_store, with_store.sinks[0])


def test_this_host_knows_itself() -> None:
    assert is_here("127.0.0.1")
    assert is_here("0.0.0.0")
    assert not is_here("192.0.2.1")
    assert not is_here("no-such-host.invalid")
