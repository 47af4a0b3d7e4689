r"""What a LoRA run under weight decay ended in: the global minimum, a spurious one, a saddle.

With W = ABᵀ the update of a frozen weight and decay λ on the adapters, every second-order
stationary point is either a global minimum of low rank and small norm, or a spurious one of
full rank and large norm (2502.09376, under restricted strong convexity and smoothness). Which
of them a run reached can be told at its end, without the constants of that theorem.

Paper: 2502.09376 (LoRA training provably converges to a low-rank global minimum or it fails
loudly, but it probably won't fail).
"""

import dataclasses
import enum

from ._certificate import Certificate


class Landscape(enum.Enum):
    """Kinds of end points; the values say it in words."""

    GLOBAL = "global minimum: low rank, small norm"
    SPURIOUS = "local minimum of full rank r, not that of the nuclear norm"
    SADDLE = "saddle"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class EndPoint:
    """`kind` of an end point and the `reason`, in numbers; its `rank` and `norm` ‖A‖² + ‖B‖²."""

    kind: Landscape
    reason: str
    rank: int
    norm: float


def classify(
    certificate: Certificate,
    curvature: float | None = None,
    *,
    convex: bool = True,
    tolerance: float = 1e-6,
) -> EndPoint:
    r"""Which kind of point of L(ABᵀ) + (λ/2)(‖A‖² + ‖B‖²) this is.

    | at rest | dual ≤ 1 | rank < r | curvature | kind |
    | --- | --- | --- | --- | --- |
    | no | | | | undecided |
    | yes | yes | | | global, for convex L |
    | yes | no | yes | | saddle: an eigenvalue ≤ λ(1 − dual) is known |
    | yes | no | no | < 0 | saddle |
    | yes | no | no | ≥ 0 | spurious |
    | yes | no | no | not given | undecided |

    **Arguments:** `certificate`: of `theory.weight_decay.certificate`. `curvature`: smallest
    eigenvalue of the Hessian of the decayed objective in (A, B); the rotations of the factors
    make it ≤ 0 up to rounding, so that values above −tolerance·λ count as ≥ 0. `convex=False`:
    L is not convex in W (softmax, a deep model), and nothing is called global.

    **Raises:** ValueError for a NaN curvature.
    **Regime:** "spurious" is against the minimum of L + λ‖·‖_*, of whatever rank. Where that has
    a rank above r the factors cannot represent it, and their best point is of this kind too:
    compare `norm` and the loss with those of a run at larger r.
    **Source:** 2502.09376, abstract; optimality conditions as in `Certificate`.

    ```python
    classify(certificate(a, b, gradient, 0.1)).kind is Landscape.GLOBAL
    ```
    """
    c = certificate
    if curvature is not None and curvature != curvature:
        raise ValueError("curvature is NaN: give the Hessian's smallest eigenvalue, or None.")

    def point(kind: Landscape, reason: str) -> EndPoint:
        return EndPoint(kind, reason, c.rank, c.norm)

    if not c.is_stationary(tolerance):
        return point(
            Landscape.UNDECIDED,
            f"not at rest: the residual is {c.residual:.3g} of the decay force. Train longer.",
        )
    size = f"dual = {c.dual:.6g}, rank {c.rank} of r = {c.width}, norm {c.norm:.6g}"
    if c.is_minimum(tolerance):
        if convex:
            return point(Landscape.GLOBAL, f"{size}: it minimises L + λ‖·‖_*.")
        return point(Landscape.UNDECIDED, f"{size}: stationary for L + λ‖·‖_*, L not convex.")
    if c.is_saddle(tolerance):
        return point(
            Landscape.SADDLE,
            f"{size}: a spare column grows, Hessian eigenvalue ≤ {c.decay * (1.0 - c.dual):.6g}.",
        )
    if curvature is None:
        return point(
            Landscape.UNDECIDED,
            f"{size}: give the Hessian's smallest eigenvalue as curvature.",
        )
    if curvature < -tolerance * c.decay:
        return point(Landscape.SADDLE, f"{size}: curvature {curvature:.6g} < 0.")
    return point(
        Landscape.SPURIOUS,
        f"{size}: a local minimum that L + λ‖·‖_* does not have. If its minimum has a rank above "
        f"{c.width}, this may be the best of rank {c.width}.",
    )
