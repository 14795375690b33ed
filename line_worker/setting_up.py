"""What `line-worker init` writes: a line.toml with its reasons beside it, from a few answers.

Only what a first line needs; `systemd/line.toml` shows every key. Text in, text out: the command asks and writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from line_worker.config_section import Name
from line_worker.errors import ConfigError

COMMENTS = 38  # the column where they begin
Row = tuple[str, str, str]  # key, value, what it is for


class Question(NamedTuple):
    """One thing to ask. `choices`: () for any text. `asked` says, from the answers so far, whether it makes sense."""

    name: str
    words: str
    default: str
    choices: tuple[str, ...] = ()
    asked: Callable[[dict[str, str]], bool] = lambda answers: True


def _is(name: str, *values: str) -> Callable[[dict[str, str]], bool]:
    return lambda answers: answers[name] in values


WITH_NODES = ("gige", "genicam", "basler")
SOURCES = ("camera", *WITH_NODES, "folder", "video", "synthetic")
PLCS = ("none", "modbus-server", "modbus-client", "s7", "opcua", "opcua-client", "ethernet-ip", "gpio")
_NODES = 'ns=3;s="LineWorker"."{name}"'

QUESTIONS = (
    Question("line", "Name of this station (letters, digits, . _ -)", "station-1"),
    Question("camera", "Name of the camera", "top"),
    Question("source", "Where do pictures come from", "camera", SOURCES),
    Question("device", "Camera: device number, or rtsp://... or http://...", "0", asked=_is("source", "camera")),
    Question("called", "Camera: serial number, address or name", "", asked=_is("source", *WITH_NODES)),
    Question("producer", "GenTL producer of its vendor (.cti)", "producer.cti", asked=_is("source", "genicam")),
    Question("path", "Folder or video file", "images", asked=_is("source", "folder", "video")),
    Question("colour", "Are the pictures", "gray", ("gray", "bgr"), _is("source", "camera", "video")),
    Question("deadline_ms", "Milliseconds from the trigger until every part must have its answer", "200"),
    Question("bundle", "The bundle that `line-worker train` wrote (stub: none yet, everything passes)", "part.bundle"),
    Question("plc", "PLC", "none", PLCS),
    Question("host", "PLC: address to listen on", "127.0.0.1", asked=_is("plc", "modbus-server", "opcua")),
    Question("plc_host", "PLC: its address", "192.168.0.10", asked=_is("plc", "modbus-client", "s7", "ethernet-ip")),
    Question("plc_url", "PLC: its OPC UA server", "opc.tcp://192.168.0.10:4840", asked=_is("plc", "opcua-client")),
    Question("plc_nodes", "PLC: its variables, {name} for the row", _NODES, asked=_is("plc", "opcua-client")),
    Question("chip", "Digital outputs: the GPIO chip", "/dev/gpiochip0", asked=_is("plc", "gpio")),
    Question("pass_line", "Digital outputs: number of the line that says PASS", "5", asked=_is("plc", "gpio")),
    Question("plc_db", "PLC: number of the data block for the registers", "1", asked=_is("plc", "s7")),
    Question("data", "Folder for the journal, results and pictures of rejects", "data"),
)


def defaults() -> dict[str, str]:
    """Return the answers of somebody who only presses Enter."""
    answers: dict[str, str] = {}
    for question in QUESTIONS:
        answers[question.name] = question.default
    return answers


def checked(question: Question, text: str) -> str:
    """Return the answer; ConfigError when it is none of the choices, or no name or number where one is needed."""
    text = text.strip()
    if question.choices and text not in question.choices:
        raise ConfigError(question.name, [f"{text!r} is none of {', '.join(question.choices)}"])
    if question.name in ("line", "camera"):
        try:
            TypeAdapter(Name).validate_python(text)
        except ValidationError:
            may_have = "at most 32 letters, digits, . _ -, and begins with a letter or digit"
            raise ConfigError(question.name, [f"{text!r} is no name: one has {may_have}"]) from None
    if question.name == "deadline_ms":
        try:
            number = float(text)
        except ValueError:
            raise ConfigError(question.name, [f"{text!r} is no number"]) from None
        if not 0 < number <= 600_000:
            raise ConfigError(question.name, [f"{text} should be more than 0 and at most 600000"])
    if question.name == "pass_line" and not (text.isdecimal() and text.isascii() and int(text) <= 1023):
        raise ConfigError(question.name, [f"{text!r} should be a number from 0 to 1023"])
    if question.name == "plc_db" and not (text.isdecimal() and text.isascii() and 1 <= int(text) <= 65535):
        raise ConfigError(question.name, [f"{text!r} should be a number from 1 to 65535"])
    return text


def render(answers: dict[str, str]) -> str:
    """Return the text of line.toml."""
    return "\n".join([HEAD, _line(answers), _camera(answers), _workers(answers), *_sinks(answers)])


HEAD = """\
# Written by `line-worker init`. Check the station with `line-worker doctor line.toml`, run it with `line-worker serve
# line.toml`. Every other key, with what it is for, is in systemd/line.toml of the project.
"""


def _line(a: dict[str, str]) -> str:
    return _section(
        "[line]",
        ("name", _text(a["line"]), ""),
        ("runtime", _text(a["data"] + "/run"), "sockets and locks"),
        ("data", _text(a["data"]), "the journal: keep it on a disk that does little else"),
    )


def _camera(a: dict[str, str]) -> str:
    rules = _section(
        "[cameras.rules]",
        ("rejects_in_row", "10", "stops the line until `line-worker acknowledge`"),
        ("undecided_in_row", "10", "likewise"),
    )
    camera = _section(
        "[[cameras]]",
        ("name", _text(a["camera"]), ""),
        ("deadline_ms", a["deadline_ms"], "a part without an answer by then is NO_DECISION, which rejects"),
        ("canary_every_s", "60", "so often a defect is painted on a copy of a live part: it must fail"),
    )
    return "\n".join([camera, rules, _section("[cameras.source]", *_source(a))])


def _source(a: dict[str, str]) -> list[Row]:
    kind = ("kind", _text(a["source"]), "camera | gige | genicam | basler | folder | video | synthetic | replay")
    if a["source"] in WITH_NODES:
        producer = [("producer", _text(a["producer"]), "")] if a["source"] == "genicam" else []
        called = ("device", _text(a["called"]), "`line-worker cameras` lists them; empty where there is only one")
        return [kind, *producer, called, ("nodes", '{ PixelFormat = "Mono8" }', "set in this order, each read back")]
    if a["source"] == "camera":
        device = a["device"] if a["device"].isdigit() else _text(a["device"])
        return [kind, ("device", device, ""), ("colour", _text(a["colour"]), "gray | bgr")]
    if a["source"] == "folder":
        return [kind, ("path", _text(a["path"]), ""), ("watch", "true", "new pictures are taken as they appear")]
    if a["source"] == "video":
        return [kind, ("path", _text(a["path"]), ""), ("colour", _text(a["colour"]), "gray | bgr")]
    return [kind, ("rate", "5", "drawn parts, a tenth of them defective")]


def _workers(a: dict[str, str]) -> str:
    return _section(
        "[workers]",
        ("bundle", _text(a["bundle"]), "what `line-worker train` wrote"),
        ("count", "1", "worker processes"),
        ("device", '"auto"', "a GPU when there is one"),
    )


def _sinks(a: dict[str, str]) -> list[str]:
    table = "`line-worker register-map line.toml` prints the table"
    plcs: dict[str, list[Row]] = {
        "modbus-server": [
            ("kind", '"plc"', f"Modbus TCP; {table}"),
            ("mode", '"server"', "the PLC polls us"),
            ("host", _text(a["host"]), ""),
            ("port", "5020", ""),
        ],
        "modbus-client": [
            ("kind", '"plc"', f"Modbus TCP; {table}"),
            ("mode", '"client"', "we write into the PLC"),
            ("host", _text(a["plc_host"]), ""),
            ("port", "502", ""),
        ],
        "s7": [
            ("kind", '"s7"', f"pip install line-worker[s7]; {table}"),
            ("host", _text(a["plc_host"]), ""),
            ("rack", "0", ""),
            ("slot", "1", "of the CPU: 1 in an S7-1200 or S7-1500, 2 in an S7-300"),
            ("db", a["plc_db"], "not optimised; PUT/GET is permitted in the CPU"),
        ],
        "opcua": [
            ("kind", '"opcua"', f"pip install line-worker[opcua]; {table}"),
            ("host", _text(a["host"]), ""),
            ("port", "4840", ""),
        ],
    }
    plcs |= {
        "opcua-client": [
            ("kind", '"opcua-client"', f"pip install line-worker[opcua]; {table}"),
            ("url", _text(a["plc_url"]), ""),
            ("nodes", _text(a["plc_nodes"]), "a row's variable"),
        ],
        "ethernet-ip": [
            ("kind", '"ethernet-ip"', f"pip install line-worker[ethernet-ip]; {table}"),
            ("host", _text(a["plc_host"]), ""),
            ("slot", "0", "of the processor"),
            ("to_plc", '"FromStation"', "INT[51]"),
            ("from_plc", '"ToStation"', "INT[24]"),
        ],
        "gpio": [
            ("kind", '"gpio"', "pip install line-worker[gpio]"),
            ("chip", _text(a["chip"]), ""),
            ("pass_line", a["pass_line"], "on for pass_ms after a PASS"),
            ("pass_ms", "50", ""),
        ],
    }
    store: list[Row] = [
        ("kind", '"store"', "every result, and pictures of rejects"),
        ("quota_mb", "2048", "of pictures"),
    ]
    log: list[Row] = [("kind", '"log"', "JSON lines"), ("path", _text(a["data"] + "/outcomes.jsonl"), "")]
    sinks = [*([plcs[a["plc"]]] if a["plc"] in plcs else []), store, log]
    return [_section("[[sinks]]", *rows) for rows in sinks]


def _section(title: str, *rows: Row) -> str:
    """Return a table of the file: key, value, and what it is for."""
    lines = (f"{f'{key} = {value}':<{COMMENTS - 1}} # {why}" if why else f"{key} = {value}" for key, value, why in rows)
    return "\n".join([title, *lines]) + "\n"


def _text(value: str) -> str:
    return json.dumps(value)  # TOML's basic strings are written as JSON's
