"""The register table on paper: Markdown, CSV and Structured Text agree with the table, and the command prints them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from line_worker.cli import main
from line_worker.config_registers import MAP_SIZE
from line_worker.sink.plc.printed import as_csv, as_markdown
from line_worker.sink.plc.registers import SIZE, TABLE

LINE = """
[line]
name = "l"
runtime = "run"
data = "data"
[[cameras]]
name = "top"
deadline_ms = 320
source = {{ kind = "synthetic" }}
[workers]
bundle = "stub"
{sinks}
"""
TWO = '[[sinks]]\nkind = "plc"\nbase = 100\n[[sinks]]\nkind = "plc"\nname = "gate"\nport = 5021\nbase = 4000\n'


def line(tmp_path: Path, sinks: str) -> str:
    path = tmp_path / "line.toml"
    path.write_text(LINE.format(sinks=sinks))
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["register-map", *arguments])
    found = capsys.readouterr()
    assert end.value.code == code, found.err
    return found.err if code else found.out


def test_the_table_has_every_row_at_its_address() -> None:
    text = as_markdown(base=1000)
    for row in TABLE:
        first, last = 1000 + row.offset, 1000 + row.offset + row.width - 1
        address = f"{first}" if row.width == 1 else f"{first}-{last}"
        assert f"| {address} | `{row.name}` | {row.width} | {row.kind} | {row.direction} | {row.meaning} |" in text
    for code in ("0x5AA5 PASS", "4 FAULT", "2 WRONG_ACK", "10 DEADLINE"):
        assert code in text


def test_the_csv_is_read_back_by_a_csv_reader() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(base=1000))))
    assert [row["name"] for row in rows] == [row.name for row in TABLE]
    verdict = next(row for row in rows if row["name"] == "verdict")
    assert (verdict["address"], verdict["reference"], verdict["type"]) == ("1013", "401014", "u16")
    assert verdict["codes"] == "0x5AA5=PASS 0x3CC3=FAIL 0x0FF0=NO_DECISION"
    assert [row["meaning"] for row in rows] == [row.meaning for row in TABLE]


def test_without_a_file_the_base_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == as_markdown() + "\n"
    assert printed(capsys, "--base", "200", "--format", "csv") == as_csv(200)


def test_a_line_has_a_table_for_every_plc_sink(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, line(tmp_path, TWO))
    assert "## plc: Modbus TCP, server, 127.0.0.1:5020, unit 1" in text
    assert as_markdown(100) in text
    assert as_markdown(4000) in text


def test_one_of_several_sinks_is_chosen_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = line(tmp_path, TWO)
    said = printed(capsys, where, "--format", "csv", code=3)
    assert "--format csv is for one Modbus sink; choose one with --sink (gate, plc)" in said
    assert "no PLC sink 'door' (there are: plc, gate)" in printed(capsys, where, "--sink", "door", code=3)
    assert printed(capsys, where, "--sink", "gate", "--format", "csv") == as_csv(4000)


def test_the_program_knows_the_lines_deadline_and_addresses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, line(tmp_path, TWO), "--sink", "plc", "--format", "st")
    assert "Window : TIME := T#320MS;" in text
    assert "holding registers 100 to 148 into FromStation" in text
    assert "registers 164 to 170 in ONE request" in text


def test_a_line_without_a_plc_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert 'no PLC sink; add [[sinks]] kind = "plc"' in printed(capsys, line(tmp_path, ""), code=3)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ('mode = "client"\nbase = 170', "the register maps of 'plc' and 'b' overlap in unit 1 of 10.0.0.5:502"),
        ('mode = "server"\nbase = 500', "both use 10.0.0.5:502, where only one server can listen"),
    ],
)
def test_maps_that_get_in_each_others_way_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, second: str, says: str
) -> None:
    common = '[[sinks]]\nkind = "plc"\nhost = "10.0.0.5"\nport = 502\n'
    both = f'{common}mode = "client"\nbase = 100\n{common}name = "b"\n{second}\n'
    assert says in printed(capsys, line(tmp_path, both), code=3)


@pytest.mark.parametrize("second", ["unit = 2", "base = 171", "base = 29", "port = 503", 'host = "10.0.0.6"'])
def test_maps_side_by_side_are_welcome(capsys: pytest.CaptureFixture[str], tmp_path: Path, second: str) -> None:
    settings = {"mode": '"client"', "host": '"10.0.0.5"', "port": "502", "base": "100"}
    first = '[[sinks]]\nkind = "plc"\n' + "".join(f"{key} = {value}\n" for key, value in settings.items())
    key, value = second.split(" = ")
    other = "".join(f"{key} = {value}\n" for key, value in (settings | {key: value}).items())
    printed(capsys, line(tmp_path, f'{first}[[sinks]]\nkind = "plc"\nname = "b"\n{other}'))


def test_an_opc_ua_sink_has_a_node_for_every_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = line(tmp_path, '[[sinks]]\nkind = "opcua"\n[[sinks]]\nkind = "plc"\n')
    text = printed(capsys, where)
    assert "## opcua: OPC UA, opc.tcp://127.0.0.1:4840" in text
    for row in TABLE:
        assert f"| `nsu=urn:line-worker;s=l/Registers/{row.name}` |" in text
    assert printed(capsys, where, "--format", "csv") == as_csv()


def test_an_opc_ua_server_and_a_modbus_server_need_a_port_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = line(tmp_path, '[[sinks]]\nkind = "opcua"\nport = 5020\n[[sinks]]\nkind = "plc"\n')
    assert "'opcua' and 'plc' both use 127.0.0.1:5020" in printed(capsys, where, code=3)


def test_the_configuration_knows_the_size_of_a_map() -> None:
    assert MAP_SIZE == SIZE
