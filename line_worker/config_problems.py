"""What is wrong with a configuration, in words for people: one line a problem, with key, value and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel

from line_worker.config_registers import clashes, driven_by_replay, of_one_camera
from line_worker.config_triggers import trigger_problems
from line_worker.wire.hosts import host_of, is_loopback

Sections = Mapping[str, type[BaseModel]]  # by the key or the `kind` that leads there; "" is the file itself

OPENED_ONCE = ("gige", "genicam", "basler", "camera")  # kinds of sources
MAX_RUNTIME = 90  # bytes of the path: the kernel allows 107 for a socket file's, its name included
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s\"]*@", re.IGNORECASE)  # "rtsp://user:password@"


def without_credentials(text: str) -> str:
    """Return `text` without the user names and passwords of the URLs in it."""
    return _CREDENTIALS.sub(r"\1", text)


def explain(error: pydantic.ValidationError, sections: Sections) -> list[str]:
    """Return one line for each problem; what only follows from another one is left out."""
    fields = {name for section in sections.values() for name in section.model_fields}
    problems: dict[str, list[str]] = {}
    for found in error.errors():
        if found["type"] == "too_short" and found["input"]:
            continue  # the items are there, but faulty: each of them has its own line
        key = _key(found, fields)
        value = found.get("input")
        shown = "" if isinstance(value, (dict, list)) or _unnamed(found) else f" = {value!r}"
        problems.setdefault(f"{key}{shown}", []).append(_words(found, sections))
    return [without_credentials(f"{key}: {'; or '.join(dict.fromkeys(words))}") for key, words in problems.items()]


def across(raw: dict[str, Any], base: Path) -> list[str]:
    """Return what is wrong between keys; what each key may be is not checked here."""
    problems = []
    for what, default in (("cameras", ""), ("sinks", "kind")):
        names = [item.get("name", item.get(default)) for item in _tables(raw.get(what))]
        double = dict.fromkeys(name for name in names if isinstance(name, str) and names.count(name) > 1)
        problems += [f"{what}: the name {name!r} is used twice; every one needs its own" for name in double]
    problems += _opened_twice(_tables(raw.get("cameras")))
    problems += clashes(_tables(raw.get("sinks")))
    problems += trigger_problems(raw)
    cameras = [str(camera.get("name")) for camera in _tables(raw.get("cameras"))]
    problems += of_one_camera(cameras, _tables(raw.get("parts")), _tables(raw.get("sinks")))
    problems += driven_by_replay(_tables(raw.get("cameras")), _tables(raw.get("sinks")))
    if sum(sink.get("kind") == "store" for sink in _tables(raw.get("sinks"))) > 1:
        problems.append("sinks: one store is allowed, it owns the crops")
    line = raw["line"] if isinstance(raw.get("line"), dict) else {}
    runtime = line.get("runtime")
    if isinstance(runtime, (str, Path)) and len(os.fsencode(base / Path(runtime).expanduser())) > MAX_RUNTIME:
        problems.append(f"line.runtime = {str(runtime)!r}: too long for socket files, at most {MAX_RUNTIME} characters")
    return problems + _without_keys(str(line.get("tcp", "")), line.get("keys"))


def _opened_twice(cameras: list[dict[str, Any]]) -> list[str]:
    """Return which cameras are the same device: it can be opened once, and one of them would never give a frame."""
    problems, taken = list[str](), dict[tuple[str, str, str], str]()
    for camera in cameras:
        source, name = camera.get("source"), str(camera.get("name"))
        if not isinstance(source, dict) or source.get("kind") not in OPENED_ONCE:
            continue
        device = source.get("device", "")
        if source["kind"] == "camera" and not isinstance(device, int):
            continue  # a stream may be read by many
        key = (str(source["kind"]), str(device), str(source.get("producer", "")))
        if key in taken:
            which = f"{device!r}" if device != "" else "whatever is connected"
            problems.append(
                f"cameras: {taken[key]!r} and {name!r} are the same device, {which}, which can be opened once; "
                "give each its own `device` (`line-worker cameras` lists them)"
            )
        taken.setdefault(key, name)
    return problems


def _without_keys(tcp: str, keys: object) -> list[str]:
    if ":" in tcp and keys is None and not is_loopback(host_of(tcp)):
        remedy = "make them with `line-worker keys new`, and name their folder in [line.keys] dir"
        return [f"line.tcp = {tcp!r}: other hosts can reach it, which needs keys: {remedy}"]
    if keys is not None and not tcp:
        return ['line.keys: nothing uses them; set line.tcp = "HOST:PORT", or leave them out']
    return []


def _tables(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, (list, tuple)) else []


def _unnamed(found: Any) -> bool:
    return found["type"] in ("extra_forbidden", "missing", "union_tag_invalid")


def _key(found: Any, fields: set[str]) -> str:
    """Return the key as a user would write it, without the union members that pydantic names in between."""
    loc = found["loc"]
    last = len(loc) - 1
    named = [p for n, p in enumerate(loc) if isinstance(p, int) or p in fields or (n == last and _unnamed(found))]
    key = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in named).lstrip(".")
    return f"{key}.kind" if found["type"].startswith("union_tag") else key


def _words(found: Any, sections: Sections) -> str:
    match found["type"]:
        case "extra_forbidden":
            return f"unknown key{_near(str(found['loc'][-1]), _allowed(found['loc'], sections))}"
        case "missing":
            return "is missing and must be given"
        case "union_tag_not_found":
            return "is missing and must be given"
        case "union_tag_invalid":
            tags = found["ctx"]["expected_tags"].replace("'", "").split(", ")
            return f"{found['ctx']['tag']!r} is unknown{_near(found['ctx']['tag'], tags)}"
        case "too_short":
            return "at least one must be given"
        case "string_pattern_mismatch":
            return f"should match {found['ctx']['pattern']}"
        case "string_type":
            return "should be a text, in quotes"
        case "bool_type":
            return "should be true or false, without quotes"
        case "int_type" | "float_type" if isinstance(found["input"], str):
            return f"should be a {'whole ' if found['type'] == 'int_type' else ''}number, without quotes"
    return str(found["msg"]).removeprefix("Value error, ").replace("Input should", "should")


def _allowed(loc: tuple[Any, ...], sections: Sections) -> list[str]:
    section = next((sections[part] for part in reversed(loc[:-1]) if part in sections), sections[""])
    return list(section.model_fields)


def _near(word: str, allowed: list[str]) -> str:
    """Return "; did you mean ...? (allowed: ...)" for a word that is not one of `allowed`."""
    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (allowed: {', '.join(allowed)})"
