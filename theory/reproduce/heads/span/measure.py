"""Claims on spans and ranks of the tokens, each with the condition that it needs."""

import numpy as np

from ... import Report
from ..problem import PAPER


def normalised(x: np.ndarray) -> np.ndarray:
    """LayerNorm of every token, without bias and with gain one."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / centred.std(axis=-1, keepdims=True)


def spans(report: Report) -> None:
    """Ranks of small matrices, by singular values; nothing is drawn."""
    rng = np.random.default_rng(0)
    rank = np.linalg.matrix_rank
    line = np.outer([1.0, 2.0, 3.0], np.eye(3)[0])
    uniform, weight = np.full((3, 3), 1.0 / 3.0), rng.normal(size=(3, 3))
    mixed = uniform @ line @ weight
    kept = weight.copy()
    kept[0, 1:] = 0.0  # e₁ to a multiple of itself
    plane = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 6))
    pattern = rng.dirichlet(np.ones(5), size=5)
    wide = rng.normal(size=(6, 6))
    image = pattern @ plane @ wide
    inside = np.linalg.qr(pattern @ plane)[0][:, :2]
    e1, e2 = np.array([1.0, -1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, -1.0])
    collinear = np.array([e1 + t * e2 for t in (0.0, 1.0, 3.0)])
    shifted = np.array([np.ones(4) + e1, e1])
    tokens = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 5))
    centring = np.eye(5) - 1.0 / 5.0
    rows = (
        ("attention", rank(mixed), 1, "rank of AXW, X of rank one"),
        ("residual", rank(line + mixed), 2, "rank of X + AXW, X of rank one and W generic"),
        ("residual.kept", rank(line + uniform @ line @ kept), 1,
         "the same where W maps the row space of X into itself"),
        ("rows", rank(np.vstack([plane, image])), 4,
         "rank of [X; AXW], X of rank 2 and W generic: rows leave the span"),
        ("columns", rank(np.hstack([inside, image])), 2,
         "rank of [A col X, AXW]: columns stay in A·col X, without conditions"),
        ("norm.affine", rank(normalised(collinear)[1:] - normalised(collinear)[0]), 2,
         "affine rank after LayerNorm of collinear tokens of zero mean, which is 1 before"),
        ("norm.lowered", rank(normalised(shifted)), 1,
         "rank after LayerNorm of two tokens of rank 2 that differ by a constant"),
        ("norm", rank(normalised(tokens)), rank(tokens @ centring),
         "rank of LN(X), which is that of XP, P = I − 11ᵀ/d"),
    )  # fmt: skip
    for key, measured, predicted, text in rows:
        report.add(f"span.{key}", predicted, measured, 0.0, paper=PAPER, text=text)
    report.say(
        "Tokens do leave the span of the embeddings with a residual and a generic W; LayerNorm "
        "keeps rank(XP), not the rank of X nor its affine rank."
    )
