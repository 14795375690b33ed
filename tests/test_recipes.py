"""Recipes: what becomes of a PLC's wish when bundles change by hand, too. (The way of a wish: test_trigger_line.py.)"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from line_worker.hub import recipes as module
from line_worker.hub.recipes import Recipes
from line_worker.hub.swap import Phase
from line_worker.verdicts import RecipeState

FIRST, SECOND, THIRD = "a" * 64, "b" * 64, "c" * 64


class Line:
    """Stands for the changeover: a line that judges with `sha`, and changes when `end` says so."""

    def __init__(self) -> None:
        self.sha, self.swap = FIRST, None
        self.config: Any = SimpleNamespace(workers=SimpleNamespace(bundle=Path("first")))

    def begin(self, bundle: Path, now: float) -> str:
        new = {"first": FIRST, "second": SECOND, "third": THIRD}[bundle.name]
        self.swap: Any = SimpleNamespace(old=self.sha, new=new, running=True, phase=Phase.PREPARING, detail="")
        return new

    def end(self, phase: Phase, detail: str = "") -> None:
        self.swap.running, self.swap.phase, self.swap.detail = False, phase, detail
        if phase is Phase.DONE:
            self.sha = self.swap.new


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(module, "bundle_sha", lambda path: {"first": FIRST, "second": SECOND}[path.name])
    monkeypatch.setattr(module, "bundle_input", lambda path: ("gray", 64))
    return Line()


@pytest.fixture
def recipes(line: Line) -> Recipes:
    named = [SimpleNamespace(number=n, bundle=Path(name)) for n, name in ((1, "first"), (2, "second"))]
    return Recipes(SimpleNamespace(recipes=named), line)  # type: ignore[arg-type]


def test_a_wish_is_fulfilled(recipes: Recipes, line: Line) -> None:
    recipes.select(2)
    recipes.turn(0.0)
    assert (recipes.state, recipes.active) == (RecipeState.CHANGING, 1)
    line.end(Phase.DONE)
    recipes.turn(1.0)
    assert (recipes.state, recipes.active) == (RecipeState.STEADY, 2)


def test_a_wish_that_fails_is_refused_with_the_cause(recipes: Recipes, line: Line) -> None:
    recipes.select(2)
    recipes.turn(0.0)
    line.end(Phase.FAILED, "no memory")
    recipes.turn(1.0)
    assert recipes.state is RecipeState.REFUSED
    assert "recipe 2 cannot be loaded (no memory)" in recipes.warnings[0]
    assert recipes.active == 1


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.FAILED])
def test_a_change_by_hand_right_behind_overtakes_the_wish(recipes: Recipes, line: Line, phase: Phase) -> None:
    recipes.select(2)
    recipes.turn(0.0)
    line.end(Phase.DONE)
    line.begin(Path("third"), 0.5)  # before the recipes look
    recipes.turn(1.0)
    line.end(phase)
    recipes.turn(2.0)
    assert (recipes.state, recipes.warnings) == (RecipeState.STEADY, ())
