"""`bench plc` measures through real sockets and a PLC that is a process of its own."""

from __future__ import annotations

import json

import pytest

from line_worker.cli import main

LONG = pytest.mark.long


@pytest.mark.parametrize(
    "via", ["modbus", pytest.param("opcua", marks=LONG), "s7", pytest.param("opcua-client", marks=LONG), "ethernet-ip"]
)
def test_every_outcome_is_seen_by_the_plc(via: str, capsys: pytest.CaptureFixture[str]) -> None:
    needs = {"opcua": "asyncua", "opcua-client": "asyncua", "s7": "snap7", "ethernet-ip": "cpppo"}.get(via, "pymodbus")
    pytest.importorskip(needs, reason=f"{needs} is missing: pip install 'line-worker[test]'")
    rate = "5" if via == "ethernet-ip" else "50"  # cpppo, the controller, takes 20 ms for every request
    with pytest.raises(SystemExit) as end:
        main(["bench", "plc", "--via", via, "--rate", rate, "--seconds", "1", "--json"])
    [way] = json.loads(capsys.readouterr().out.splitlines()[-1])["ways"]
    assert end.value.code == 0
    assert (way["via"], way["parts"], way["seen"]) == (via, int(rate), int(rate))
    assert way["p50_ms"] > 0


def test_a_protocol_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "plc", "--via", "profinet"])
    assert end.value.code == 3
    assert "choose from modbus, opcua, s7, opcua-client, ethernet-ip" in capsys.readouterr().err
