"""The register table on paper: Markdown, CSV and Structured Text agree with the table, and the command prints them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from line_worker.cli import main
from line_worker.config_registers import MAP_SIZE
from line_worker.sink.plc.printed import as_blocks, as_blocks_csv, as_csv, as_markdown
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
    assert (
        "--format csv is for one sink of kind plc, s7, opcua-client, ethernet-ip; choose one with --sink (gate, plc)"
        in said
    )
    assert "no PLC sink 'door' (there are: plc, gate)" in printed(capsys, where, "--sink", "door", code=3)
    assert printed(capsys, where, "--sink", "gate", "--format", "csv") == as_csv(4000)


def test_the_program_knows_the_lines_deadline_and_addresses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, line(tmp_path, TWO), "--sink", "plc", "--format", "st")
    assert "Window : TIME := T#320MS;" in text
    assert "holding registers 100 to 150 into FromStation" in text
    assert "registers 164 to 187 in ONE request" in text


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


@pytest.mark.parametrize("second", ["unit = 2", "base = 188", "base = 12", "port = 503", 'host = "10.0.0.6"'])
def test_maps_side_by_side_are_welcome(capsys: pytest.CaptureFixture[str], tmp_path: Path, second: str) -> None:
    settings = {"mode": '"client"', "host": '"10.0.0.5"', "port": "502", "base": "100"}
    first = '[[sinks]]\nkind = "plc"\n' + "".join(f"{key} = {value}\n" for key, value in settings.items())
    key, value = second.split(" = ")
    other = "".join(f"{key} = {value}\n" for key, value in (settings | {key: value}).items())
    printed(capsys, line(tmp_path, f'{first}[[sinks]]\nkind = "plc"\nname = "b"\n{other}'))


S7 = '[[sinks]]\nkind = "s7"\nhost = "10.0.0.5"\ndb = 7\nbase = 100\n'


def test_an_s7_sink_has_the_addresses_of_its_data_block(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, line(tmp_path, S7))
    assert "## s7: S7, 10.0.0.5:102, rack 0, slot 1" in text
    assert as_blocks(7, 100) in text
    assert "| DB7.DBW126 | `verdict` | 2 | Word | to PLC |" in text
    assert "| DB7.DBD120 | `seq` | 4 | DWord | to PLC |" in text
    assert "| DB7.DBD132 | `score` | 4 | Real | to PLC |" in text
    assert "| DB7.DBB146 | `camera` | 16 | Array[0..15] of Char | to PLC |" in text
    assert "0x5AA5 PASS" in text


def test_the_csv_of_an_s7_sink(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, line(tmp_path, S7), "--format", "csv")
    assert text == as_blocks_csv(7, 100)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [row.name for row in TABLE]
    ends = [int(row["address"][7:]) + int(row["bytes"]) for row in rows]
    assert ends == [100 + 2 * (row.offset + row.width) for row in TABLE]
    assert rows[-1]["address"] == "DB7.DBW274"
    assert rows[12]["codes"] == "0x5AA5=PASS 0x3CC3=FAIL 0x0FF0=NO_DECISION"
    assert "--format st is for one sink of kind plc, ethernet-ip;" in printed(
        capsys, line(tmp_path, S7), "--format", "st", code=3
    )


@pytest.mark.parametrize(
    ("second", "overlap"),
    [
        ("base = 274", True),
        ("base = 276", False),
        ("db = 8", False),
        ("slot = 2", False),
        ('host = "10.0.0.6"', False),
        ("port = 1102", False),
    ],
)
def test_maps_in_one_data_block_do_not_overlap(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, second: str, overlap: bool
) -> None:
    settings = {"kind": '"s7"', "host": '"10.0.0.5"', "db": "7", "base": "100"}
    other = settings | {"name": '"b"'} | dict([second.split(" = ")])
    tables = ["[[sinks]]", *(f"{k} = {v}" for k, v in settings.items())]
    tables += ["[[sinks]]", *(f"{k} = {v}" for k, v in other.items())]
    told = printed(capsys, line(tmp_path, "\n".join(tables)), code=3 if overlap else 0)
    says = (
        "the register maps of 's7' and 'b' overlap in rack 0, slot 1, db 7 of 10.0.0.5:102: "
        "each takes 176 bytes, from 100 and from 274"
    )
    assert (says in told) is overlap


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("db = 7", "host: is missing"),
        ('host = "plc"', "db: is missing"),
        ('host = "plc"\ndb = 7\nbase = 3', "base = 3"),
        ('host = "plc"\ndb = 7\nbase = 65400', "base = 65400"),
        ('host = "plc"\ndb = 0', "db = 0"),
        ('host = "plc"\ndb = 7\nslot = 32', "slot = 32"),
        ('host = "plc"\ndb = 7\npoll_ms = 0', "poll_ms = 0"),
        ('host = ""\ndb = 7', "host = ''"),
        ('host = "plc"\ndb = 7\nunit = 1', "unit"),
    ],
)
def test_what_an_s7_sink_may_not_be(capsys: pytest.CaptureFixture[str], tmp_path: Path, keys: str, says: str) -> None:
    two = f'[[sinks]]\nkind = "s7"\n{keys}\n[[sinks]]\nkind = "s7"\nname = "b"\n{keys}\n'
    told = printed(capsys, line(tmp_path, two), code=3)
    assert says in told
    assert "None" not in told


def test_an_opc_ua_sink_has_a_node_for_every_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = line(tmp_path, '[[sinks]]\nkind = "opcua"\n[[sinks]]\nkind = "plc"\n')
    text = printed(capsys, where)
    assert "## opcua: OPC UA, opc.tcp://127.0.0.1:4840" in text
    for row in TABLE:
        assert f"| `nsu=urn:line-worker;s=l/Registers/{row.name}` |" in text
    assert printed(capsys, where, "--format", "csv") == as_csv()


def test_variables_of_a_plcs_own_opc_ua_server_are_named_by_their_pattern(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nodes = """'ns=3;s="LineWorker"."{name}"'"""
    where = line(tmp_path, f'[[sinks]]\nkind = "opcua-client"\nurl = "opc.tcp://10.0.0.5"\nnodes = {nodes}\n')
    text = printed(capsys, where)
    assert "## opcua-client: OPC UA, client of opc.tcp://10.0.0.5" in text
    assert '| `ns=3;s="LineWorker"."verdict"` | UInt16 | to PLC |' in text
    rows = list(csv.DictReader(io.StringIO(printed(capsys, where, "--format", "csv"))))
    assert (rows[10]["node"], rows[10]["type"]) == ('ns=3;s="LineWorker"."seq"', "UInt32")


def test_arrays_of_a_logix_plc_have_elements(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = line(tmp_path, '[[sinks]]\nkind = "ethernet-ip"\nhost = "10.0.0.5"\nto_plc = "Program:Main.In"\n')
    text = printed(capsys, where)
    assert "## ethernet-ip: EtherNet/IP, 10.0.0.5:44818, slot 0" in text
    assert "| Program:Main.In[13] | `verdict` | u16 | to PLC |" in text
    assert "| ToStation[4..5] | `ack_seq` | u32 | from PLC |" in text
    rows = list(csv.DictReader(io.StringIO(printed(capsys, where, "--format", "csv"))))
    assert (rows[10]["elements"], rows[10]["words"]) == ("Program:Main.In[10..11]", "2")
    assert "copy the array that the station writes" in printed(capsys, where, "--format", "st")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ('kind = "opcua-client"\nurl = "opc.tcp://plc"\nnodes = "ns=2;s=verdict"', "nodes = 'ns=2;s=verdict': should"),
        ('kind = "opcua-client"\nurl = "http://plc"\nnodes = "ns=2;s={name}"', "url = 'http://plc': should match"),
        ('kind = "opcua-client"\nnodes = "ns=2;s={name}"', "url: is missing"),
        (
            'kind = "opcua-client"\nurl = "opc.tcp://plc"\nnodes = "s={name}"\ncertificate = "a.der"',
            "certificate, private_key and server_certificate go together; given: certificate",
        ),
        (
            'kind = "opcua-client"\nurl = "opc.tcp://plc"\nnodes = "s={name}"\nusername = "u"\npassword_file = "p"',
            "the password would cross the network in the clear",
        ),
        ('kind = "ethernet-ip"\nhost = "plc"\nslot = "left"', "slot = 'left'"),
        ('kind = "ethernet-ip"\nhost = "plc"\nto_plc = "a b"', "to_plc = 'a b': should match"),
        (
            'kind = "ethernet-ip"\nhost = "plc"',
            "'ethernet-ip' and 'b' write to the same memory (host plc, port 44818, slot 0, to_plc FromStation)",
        ),
        (
            'kind = "opcua-client"\nurl = "opc.tcp://plc"\nnodes = "ns=2;s={name}"',
            "'opcua-client' and 'b' write to the same memory (url opc.tcp://plc, nodes ns=2;s={name})",
        ),
    ],
)
def test_what_such_sinks_may_not_be(capsys: pytest.CaptureFixture[str], tmp_path: Path, keys: str, says: str) -> None:
    told = printed(capsys, line(tmp_path, f'[[sinks]]\n{keys}\n[[sinks]]\nname = "b"\n{keys}\n'), code=3)
    assert says in told


def test_an_opc_ua_server_and_a_modbus_server_need_a_port_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = line(tmp_path, '[[sinks]]\nkind = "opcua"\nport = 5020\n[[sinks]]\nkind = "plc"\n')
    assert "'opcua' and 'plc' both use 127.0.0.1:5020" in printed(capsys, where, code=3)


def test_the_configuration_knows_the_size_of_a_map() -> None:
    assert MAP_SIZE == SIZE
