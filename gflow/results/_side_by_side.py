"""Records between the steps of one run or of many, solved in as few calls as can be."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ._record import Record
from ._resolver import joined


def after_each(runs: Sequence[Record], steps: np.ndarray, spans: np.ndarray) -> dict[str, Any]:
    """The records at spans (n, points) of the clock after steps (n,) of n runs, stacked alike.

    Of members of one batch in one call.
    """
    own: dict[int, list[int]] = {}
    for k, run in enumerate(runs):
        own.setdefault(id(run), []).append(k)
    teams: dict[int, list[list[int]]] = {}
    for rows in own.values():
        resolver = runs[rows[0]].resolver
        team = None if resolver is None else resolver.team
        teams.setdefault(id(resolver if team is None else team), []).append(rows)
    found = joined([_of_team(runs, rows, steps, spans) for rows in teams.values()])
    order = np.argsort([k for members in teams.values() for rows in members for k in rows])

    def shaped(x: np.ndarray) -> np.ndarray:
        return x.reshape(*spans.shape, *x.shape[1:])[order]

    return jax.tree.map(shaped, found)


def _of_team(
    runs: Sequence[Record], members: list[list[int]], steps: np.ndarray, spans: np.ndarray
) -> dict[str, Any]:
    """Of the members of one batch, whose rows these are, one after the other."""
    asked = [runs[rows[0]].rows_after(steps[rows], spans[rows]) for rows in members]
    first = runs[members[0][0]]
    if len(members) == 1:
        return first.solved(*asked[0])
    resolvers = [r for rows in members if (r := runs[rows[0]].resolver) is not None]
    leaves, t, _ = joined(asked)
    until = [r.until_rest(*ask[1:]) for r, ask in zip(resolvers, asked, strict=True)]
    who = np.repeat([r.member for r in resolvers], [len(ask[1]) for ask in asked])
    team = resolvers[0].team
    assert team is not None
    return first.since(team(who, leaves, t, np.concatenate(until)))
