"""A decoder of characters in plain arrays on the prose that comes with SciPy."""

import jax

import gflow

from ..trained_heads.problem import Descent, Problem
from .settings import Settings


def problem(settings: Settings) -> Problem:
    """Nats a character on fixed windows of text; their frequencies alone give about 3."""
    text = gflow.tasks.scipy_prose()

    def build(key):
        return gflow.models.Transformer(
            text.vocabulary, settings.length, d=settings.d, heads=2, head_width=settings.d // 2,
            hidden=settings.hidden, layers=settings.layers, key=key,
        )  # fmt: skip

    objective = text.windows(settings.length, count=settings.windows, key=jax.random.key(0))
    batch = settings.windows // 2
    descent = Descent(sgd=0.03, adam=1e-3, batch=batch, steps=settings.steps)
    name = f"Decoder of characters, {settings.windows} × {settings.length} of SciPy's prose"
    return Problem(name, build, objective, (3.0, 2.6, 2.3, 2.0), 200.0, descent)
