"""What the README tells people to type exists, and its register table is the one the PLC gets."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from line_worker.sink.plc.printed import as_markdown
from line_worker.verdicts import Reason
from line_worker.wire.links import LINKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
GROUPS = ("bench", "bundle", "keys", "shadow")  # commands that have commands
COMMANDS = sorted(set(re.findall(r"^\s*(?:\$ )?(line-worker [^#`\n]+)", README, re.MULTILINE)))


@cache
def _help(*command: str) -> str:
    arguments = [str(Path(sys.executable).parent / "line-worker"), *command, "--help"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30, env={"COLUMNS": "200"})
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_and_option_exists(line: str) -> None:
    words = shlex.split(line)[1:]
    command = words[:2] if words[0] in GROUPS else words[:1]
    text = _help(*command)
    for option in (word for word in words if word.startswith("--")):
        assert option in text, f"{' '.join(command)} has no {option}"


def test_commands_were_found() -> None:
    assert len(COMMANDS) > 5


def test_the_register_table_is_the_real_one() -> None:
    rows = [row for row in as_markdown().splitlines() if row.startswith("|")]
    missing = [row for row in rows if row not in README]
    assert not missing, f"print it with: line-worker register-map; missing: {missing[:2]}"


def test_the_table_of_links_is_complete() -> None:
    for link in LINKS:
        assert re.search(rf"^\| {link.name} \|", README, re.MULTILINE), link.name


def test_reasons_in_the_readme_exist() -> None:
    named = {
        word for words in re.findall(r"NO_DECISION\(([A-Z_, or]+?)\)", README) for word in re.findall(r"[A-Z_]+", words)
    }
    assert named
    assert named <= set(Reason.__members__)


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
