"""`line-worker init`: asks a few questions and writes line.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from line_worker.errors import ConfigError


def init(
    out: Annotated[Path, typer.Argument(metavar="[LINE.TOML]", help="The file to write.")] = Path("line.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: write a line with everything as suggested.")] = False,
    answer: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An answer beforehand, as plc=opcua.")
    ] = None,
) -> int:
    """Write a line.toml with its reasons beside it, from a few answers."""
    from line_worker import setting_up
    from line_worker.config import parse

    _check_place(out)
    answers = setting_up.defaults() | _beforehand(answer or ())
    for question in setting_up.QUESTIONS:
        if not yes and question.asked(answers) and not _given(question.name, answer):
            answers[question.name] = _asked(question)
    text = setting_up.render(answers)
    import tomllib

    parse(tomllib.loads(text), base=out.parent)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise _unwritable(out, error) from error
    typer.echo(f"{out} is written; now: line-worker doctor {out}, then line-worker serve {out}")
    return 0


def _check_place(out: Path) -> None:
    """Refuse a place where nothing can be written, before anything is asked."""
    try:
        if out.exists():
            raise ConfigError(str(out), ["is there already and is not overwritten; give another name"])
        if out.parent.exists() and not out.parent.is_dir():
            raise ConfigError(str(out), [f"{out.parent} is a file, nothing was written; give another name"])
        if not out.parent.is_dir():
            raise ConfigError(str(out), [f"the folder {out.parent} does not exist, nothing was written; make it first"])
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(str(out), [f"cannot be written ({error.strerror}); give a file in another folder"])


def _beforehand(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    from line_worker import setting_up

    known = {question.name: question for question in setting_up.QUESTIONS}
    answers = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in known:
            raise ConfigError("--answer", [f"{one!r}: give NAME=VALUE with one of {', '.join(known)}"])
        answers[name] = setting_up.checked(known[name], value)
    return answers


def _given(name: str, given: list[str] | None) -> bool:
    return any(one.partition("=")[0] == name for one in given or ())


def _asked(question: object) -> str:
    """Ask until the answer makes sense."""
    from line_worker import setting_up

    assert isinstance(question, setting_up.Question)
    among = f" ({', '.join(question.choices)})" if question.choices else ""
    while True:
        text = typer.prompt(question.words + among, default=question.default)
        try:
            return setting_up.checked(question, text)
        except ConfigError as error:
            typer.echo(error.problems[0], err=True)
