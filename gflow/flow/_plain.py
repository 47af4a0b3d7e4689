"""The gradient flow of a model's plain factors."""

import equinox as eqx
from jaxtyping import PyTree

from ..parameters._base import to_factors
from ._build import build_flow
from ._flow import Flow, Objective


def plain_flow(model: PyTree, objective: Objective) -> tuple[PyTree, Flow]:
    """`gflow.to_factors(model)`, and its flow: the state holds all factors one after the other.

    **Raises:** ValueError for a leaf that has coordinates of its own.
    """
    model = to_factors(model)
    flow = build_flow(model, objective)
    check_plain(flow)
    return model, flow


def check_plain(flow: Flow) -> None:
    """**Raises:** ValueError for a leaf that is not held as plain factors."""
    for name, c in zip(flow.names, flow.coordinates, strict=True):
        if eqx.filter_eval_shape(lambda c: c.arrays(c.start()), c) is None:
            raise ValueError(
                f"Leaf {name!r} is held in {c.chart.__name__}, not as plain factors, which this is "
                "about. Make it a plain array or a gflow.Product of its factors."
            )
