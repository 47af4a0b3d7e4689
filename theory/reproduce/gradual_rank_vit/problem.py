"""A vision transformer in plain arrays on handwritten digits, 2 × 2 patches of 4 × 4 pixels."""

import gflow

from ..trained_heads.problem import Descent, Problem
from .settings import Settings


def problem(settings: Settings) -> Problem:
    """Cross-entropy of ten classes; the loss begins above ln 10 = 2.3."""

    def build(key):
        return gflow.models.VisionTransformer(
            (8, 8), patch=4, classes=10, d=settings.d, heads=2, head_width=settings.d // 2,
            hidden=settings.hidden, layers=settings.layers, key=key,
        )  # fmt: skip

    task = gflow.tasks.digits(examples=settings.examples)
    batch = settings.examples // 5
    descent = Descent(sgd=0.03, adam=1e-3, batch=batch, steps=settings.steps)
    name = f"Vision transformer, {settings.examples} digits"
    return Problem(name, build, task.objective, (2.0, 1.0, 0.3, 0.1), 400.0, descent)
