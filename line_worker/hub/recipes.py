"""Bundles by number: the PLC asks for one, and the line changes to it between two parts, or says that it cannot."""

from __future__ import annotations

import structlog

from line_worker.activation import bundle_input, bundle_sha
from line_worker.config import Config
from line_worker.errors import ConfigError
from line_worker.hub.changeover import Changeover
from line_worker.hub.swap import Phase
from line_worker.verdicts import RecipeState

log = structlog.get_logger()


class Recipes:
    """The recipes of one line. A wish that comes while bundles change waits for the end of that."""

    def __init__(self, config: Config, changeover: Changeover) -> None:
        self._paths = {recipe.number: recipe.bundle for recipe in config.recipes}
        self._changeover = changeover
        self._shas = {number: bundle_sha(path) for number, path in self._paths.items()}
        self._wanted, self._begun = 0, False
        self._refused = ""

    def select(self, number: int) -> None:
        """Somebody wants the recipe of this number."""
        self._wanted, self._begun, self._refused = number, False, ""
        log.info("recipe is wanted", recipe=number)
        if number not in self._paths:
            there = ", ".join(map(str, self._paths)) or "none"
            self._refused = f"recipe {number} was asked for and is not in the configuration; there are {there}"

    def turn(self, now: float) -> None:
        """Begin to change, once nothing else changes."""
        swap = self._changeover.swap
        if not self._wanted or self._refused or (swap is not None and swap.running):
            return
        sha = self._shas[self._wanted]
        if self._changeover.sha == sha:
            self._wanted = 0
        elif not self._begun:
            self._begin(now)
        elif swap is not None and swap.new == sha and swap.phase is Phase.FAILED:
            self._refused = f"recipe {self._wanted} cannot be loaded ({swap.detail}); the line keeps what it has"
        else:
            self._wanted = 0  # somebody has chosen another bundle since

    def _begin(self, now: float) -> None:
        self._begun = True
        path = self._paths[self._wanted]
        if bundle_input(path) != bundle_input(self._changeover.config.workers.bundle):
            self._refused = f"recipe {self._wanted}, {path}, is for other pictures; the line keeps what it has"
            return
        try:
            self._shas[self._wanted] = self._changeover.begin(path, now)
        except ConfigError as error:
            self._refused = f"recipe {self._wanted} cannot be used ({error}); the line keeps what it has"

    @property
    def active(self) -> int:
        """The number of the recipe that judges, 0 when the bundle has none."""
        swap = self._changeover.swap
        judges = swap.old if swap is not None and swap.running else self._changeover.sha  # not all have changed yet
        return next((number for number, sha in self._shas.items() if sha and sha == judges), 0)

    @property
    def state(self) -> RecipeState:
        """What became of the last wish."""
        if self._refused:
            return RecipeState.REFUSED
        return RecipeState.CHANGING if self._wanted else RecipeState.STEADY

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know."""
        return (self._refused,) if self._refused else ()
