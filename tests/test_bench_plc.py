"""`bench plc` measures through real sockets and a PLC that is a process of its own."""

from __future__ import annotations

import json

import pytest

from line_worker.cli import main


@pytest.mark.parametrize("via", ["modbus", "opcua", "s7"])
def test_every_outcome_is_seen_by_the_plc(via: str, capsys: pytest.CaptureFixture[str]) -> None:
    needs = {"opcua": "asyncua", "s7": "snap7"}.get(via, "pymodbus")
    pytest.importorskip(needs, reason=f"{needs} is missing: pip install 'line-worker[{via}]'")
    with pytest.raises(SystemExit) as end:
        main(["bench", "plc", "--via", via, "--rate", "50", "--seconds", "1", "--json"])
    [way] = json.loads(capsys.readouterr().out.splitlines()[-1])["ways"]
    assert end.value.code == 0
    assert (way["via"], way["parts"], way["seen"]) == (via, 50, 50)
    assert 0 < way["p50_ms"] < 50


def test_a_protocol_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "plc", "--via", "profinet"])
    assert end.value.code == 3
    assert "choose from modbus, opcua, s7" in capsys.readouterr().err
