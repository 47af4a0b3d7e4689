"""Conservation laws of models of a hundred weights: seconds to count and to find them.

Nothing is compiled before: what is asked for once is paid with its compilation.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gflow

#: At most so many CPU seconds.
ASKED = 10.0


def linear(inputs: int, width: int, outputs: int):
    """A linear network of two layers: its balance, width(width + 1)/2 laws."""
    weights, x = _two(inputs, width, outputs)
    return weights, (lambda w: w[1] @ (w[0] @ x)), width * (width + 1) // 2


def rectified(inputs: int, width: int, outputs: int):
    """A ReLU network: one law for each hidden neuron."""
    weights, x = _two(inputs, width, outputs)
    return weights, (lambda w: w[1] @ jax.nn.relu(w[0] @ x)), width


def attention(heads: int, d: int, rank: int):
    """Softmax attention: rank(rank + 1)/2 laws of either product of every head."""
    rng = np.random.default_rng(0)
    weights = {k: jnp.asarray(rng.normal(size=(heads, d, rank))) for k in "qkvo"}
    x = jnp.asarray(rng.normal(size=(20, 4, d)))

    def outputs(w):
        kq = jnp.einsum("hdr,her->hde", w["q"], w["k"])
        vo = jnp.einsum("hdr,her->hde", w["v"], w["o"])
        patterns = jax.nn.softmax(jnp.einsum("ntd,hde,nse->nhts", x, kq, x), axis=-1)
        return jnp.einsum("nhts,nsd,hde->nte", patterns, x, vo)

    return weights, outputs, heads * rank * (rank + 1)


def _two(inputs: int, width: int, outputs: int):
    rng = np.random.default_rng(0)
    shapes = (width, inputs), (outputs, width)
    return [jnp.asarray(rng.normal(size=s)) for s in shapes], jnp.asarray(
        rng.normal(size=(inputs, 120))
    )


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: model, weights, laws counted, found and known, wall and CPU seconds."""
    small = {"linear": linear(3, 2, 3), "ReLU": rectified(3, 3, 2)}
    large = {
        "linear 5–10–5": linear(5, 10, 5),
        "ReLU 9–10–1": rectified(9, 10, 1),
        "attention, 3 heads of 2": attention(3, 4, 2),
    }
    rows = []
    for name, (weights, outputs, known) in (small if quick else large).items():
        say(f"laws: {name}")
        began, used = time.perf_counter(), time.process_time()
        laws = gflow.symmetry.conservation_laws(weights, outputs)
        rows.append(
            {
                "model": name, "weights": laws.size, "counted": laws.count,
                "found": laws.independent, "known": known,
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - used,
            }
        )  # fmt: skip
    return {"rows": rows}


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float | None]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    rows = part.get("rows", [])
    slowest = max((row["cpu_seconds"] for row in rows), default=None)
    wrong = sum(row["counted"] != row["known"] or row["found"] != row["known"] for row in rows)
    most = [
        ("CPU s to the conservation laws of 100 weights, slowest model", ASKED, slowest),
        ("models whose conservation laws are miscounted", 0.0, float(wrong) if rows else None),
    ]
    return most, []


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows."""
    head = ["model", "weights", "laws", "found", "s", "CPU s"]
    rows = [
        [r["model"], str(r["weights"]), str(r["counted"]), str(r["found"]),
         f"{r['seconds']:.3g}", f"{r['cpu_seconds']:.3g}"]
        for r in part.get("rows", ())
    ]  # fmt: skip
    return [("Conservation laws", head, rows)] if rows else []
