r"""Cross-entropy: softmax trajectories in closed form, what they conserve, where they point.

**Clock.** θ' = −∂L/∂θ − λθ of the mean loss (1/n) Σ −log p, which is flow time under
`gflow.objectives.CrossEntropy(inputs, labels)`, its default. Under "sum" the flow is n times as
fast.

**Two linear layers on K one-hot inputs**, W = W₂W₁, column c the logits of class c: from a
balanced start in the right basis the softmax keeps the singular vectors, and scalars are left.

    equiangular start    one logit a(t), any K, in closed form        `etf_logit`
    Hadamard start       K modes a_k(t), K = 2, 4, 8, …               `hadamard_modes`

Softmax attention with logits W_KᵀW_Q on a lookup of K one-hot tokens is the same problem.

**Late**, on separable data, a linear map points to `max_margin`, by 1/log t (`late_separator`).

Papers: 2512.04006 (Garrod, Keating, Thrampoulidis 2025), 2410.09605 (Yang, Kailkhura, Wang, Liang
2024), 2409.17335 (Huang, Liang, Yang 2024), 1710.10345 (Soudry et al. 2018), 2008.08186 (Papyan,
Han, Donoho 2020).
"""

from ._balance import (
    Conserved as Conserved,
    balance_identity as balance_identity,
    conserved as conserved,
    readout_norm2 as readout_norm2,
)
from ._etf import (
    etf_logit as etf_logit,
    etf_loss as etf_loss,
    etf_rest as etf_rest,
    etf_time as etf_time,
)
from ._hadamard import (
    hadamard_logits as hadamard_logits,
    hadamard_loss as hadamard_loss,
    hadamard_modes as hadamard_modes,
)
from ._late import (
    LateSeparator as LateSeparator,
    late_logit as late_logit,
    late_separator as late_separator,
)
from ._max_margin import (
    MaxMargin as MaxMargin,
    max_margin as max_margin,
)
from ._neural_collapse import (
    equiangle as equiangle,
    equinorm as equinorm,
    self_duality as self_duality,
    within_class as within_class,
)
from ._predict import predict as predict
from ._separation import separable as separable
from ._starts import (
    etf_start as etf_start,
    hadamard_start as hadamard_start,
)
