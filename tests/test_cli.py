"""What the command line makes of errors: words and an exit code for what a user can put right, a traceback for bugs."""

from __future__ import annotations

from pathlib import Path

import pytest

from line_worker import exporting
from line_worker.cli import main
from line_worker.hub.journal import Journal


@pytest.mark.parametrize(
    "command",
    ["export {journal} {file}", "export {journal} {file}/x", "demo --keep {file}"],
)
def test_a_file_in_the_way_is_told_in_words(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, journal = tmp_path / "FILE", tmp_path / "journal.sqlite"
    file.write_text("")
    Journal(journal, "l").close()
    with pytest.raises(SystemExit) as end:
        main(command.format(file=file, journal=journal).split())
    said = capsys.readouterr().err
    assert end.value.code == 3
    assert said.startswith(f"line-worker: {file}")
    assert said.count("\n") == 1
    assert "; correct the path or its permissions, or make room on its disk" in said


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("not about a file")

    monkeypatch.setattr(exporting, "export", broken)
    with pytest.raises(OSError, match="not about a file"):
        main(["export", str(tmp_path), str(tmp_path)])
