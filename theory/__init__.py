"""What papers predict about gradient flow, and its comparison with simulation.

Names are imported when first used, so that the command line can set up JAX before.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        assumptions as assumptions,
        condensation as condensation,
        exact_linear as exact_linear,
        gradual_rank as gradual_rank,
        plot as plot,
        remainder as remainder,
        saddle_to_saddle as saddle_to_saddle,
        two_layer_condensation as two_layer_condensation,
        weight_decay as weight_decay,
    )
    from .comparison import Comparison as Comparison, compare as compare
    from .extrapolation import extrapolate as extrapolate
    from .prediction import Prediction as Prediction, Stage as Stage

_MODULES = (
    "assumptions",
    "condensation",
    "exact_linear",
    "gradual_rank",
    "plot",
    "remainder",
    "saddle_to_saddle",
    "two_layer_condensation",
    "weight_decay",
)
_FROM = {
    "Comparison": "comparison",
    "compare": "comparison",
    "extrapolate": "extrapolation",
    "Prediction": "prediction",
    "Stage": "prediction",
}


def __getattr__(name: str) -> Any:
    if name in _FROM:
        value = getattr(importlib.import_module(f".{_FROM[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_FROM})
