"""What a sweep is of: settings times seeds, numbered, and cut into chunks."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._arguments import count

Setting = bool | int | float | str | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs in order, seeds fastest, and the `chunk` of them that makes one file.

    The chunk that a run is in depends on nothing but this, whatever was run before.
    """

    grid: dict[str, list[Setting]]
    seeds: list[int]
    chunk: int

    @property
    def runs(self) -> int:
        return math.prod(map(len, self.grid.values())) * len(self.seeds)

    @property
    def chunks(self) -> int:
        return -(-self.runs // self.chunk)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid, with the seeds last."""
        return (*map(len, self.grid.values()), len(self.seeds))

    def members(self, chunk: int) -> range:
        """The numbers of the runs of a chunk."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.runs))

    def settings(self, run: int) -> tuple[dict[str, Setting], int]:
        """The settings of a run, and its seed."""
        *places, seed = np.unravel_index(run, self.shape)
        chosen = {n: x[int(i)] for (n, x), i in zip(self.grid.items(), places, strict=True)}
        return chosen, self.seeds[int(seed)]


def planned(grid: Any, seeds: int | Sequence[int], chunk: int) -> Plan:
    """A plan from what a user wrote. **Raises:** ValueError for what is none."""
    if not isinstance(grid, Mapping):
        raise ValueError(f"grid = {grid!r:.200} is no table: give names and values, {{'p': [5]}}.")
    axes = {}
    for name, values in grid.items():
        if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
            raise ValueError(
                f"grid names {name!r}: a setting is an argument of build, a name other than "
                f"{', '.join(sorted(_TAKEN))}."
            )
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise ValueError(f"grid[{name!r}] = {values!r:.200}: give a list of values.")
        axes[name] = [_setting(name, value) for value in values]
        _distinct(f"grid[{name!r}]", axes[name])
    if isinstance(seeds, Iterable) and not isinstance(seeds, str):
        chosen = [_seed(seed) for seed in seeds]
    else:
        chosen = list(range(count("seeds", seeds, "the number of seeds, or a list of them")))
    _distinct("seeds", chosen)
    return Plan(axes, chosen, count("chunk", chunk, "the runs of one file"))


#: Dimensions of what is read of a sweep.
_TAKEN = {"run", "seed", "stage", "t", "tau"}


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"seeds has {value!r}: a seed is an integer of at least 0.")
    return int(value)


def _setting(name: str, value: Any) -> Setting:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(f"grid[{name!r}] has {value!r}: a setting is finite.")
    if plain is not None and not isinstance(plain, bool | int | float | str):
        raise ValueError(
            f"grid[{name!r}] has {value!r:.200}: a setting is a number, a string, a truth value or "
            "None, from which build makes the rest."
        )
    return plain


def _distinct(name: str, values: list[Any]) -> None:
    if not values:
        raise ValueError(f"{name} is empty: give at least one value.")
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{name} has {value!r} twice: every value is run once.")
        seen.add(value)
