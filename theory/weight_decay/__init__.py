r"""Weight decay on the two factors of W = ABᵀ: balance, the nuclear norm, the rank at the end.

    A' = −MB − λA,   B' = −MᵀA − λB,   M = ∇_W L(ABᵀ),   A: (m, r), B: (n, r)

is the flow of L + (λ/2)(‖A‖² + ‖B‖²); SGD with `weight_decay=λ` is its Euler scheme. For **any**
L the imbalance G = AᵀA − BᵀB dies as e^{−2λt} (`imbalance`), so that the objective becomes
L + λ‖W‖_* (`gap_bounds`, `certificate`). For L quadratic the end is a soft-thresholding
(`soft_threshold`, `predicted_rank`) and the way there is known (`balanced`, `unbalanced`); for a
lookup by softmax attention both are known as well (`lookup_course`).

**Beware of two factors of 2.** (λ/2)(‖A‖² + ‖B‖²) corresponds to λ‖W‖_* (2410.23819 prints
λ(‖A‖² + ‖B‖²) in its abstract and λ/2 in its Fig. 1). And the loss is ½‖W − D‖² (`loss="half"`)
or ‖W − D‖² (`loss="full"`, Fig. 1): thresholds are λ and λ/2.

Adam, AdamW, momentum and clipping of one factor have none of this, except that AdamW's rest
points are close to those of the decayed loss.

Papers: 2410.23819 (Kobayashi, Akram, von Oswald, NeurIPS 2024); 2502.09376 (LoRA).
"""

from ._balanced import (
    balanced as balanced,
    balanced_mode as balanced_mode,
    half_time as half_time,
)
from ._certificate import (
    Certificate as Certificate,
    certificate as certificate,
    gap as gap,
    zero_rank_threshold as zero_rank_threshold,
)
from ._imbalance import (
    GapBounds as GapBounds,
    descent_imbalance as descent_imbalance,
    gap_bounds as gap_bounds,
    gap_late_constant as gap_late_constant,
    imbalance as imbalance,
)
from ._lookup import (
    LookupRates as LookupRates,
    lookup_course as lookup_course,
    lookup_logit as lookup_logit,
    lookup_rates as lookup_rates,
)
from ._lora import (
    EndPoint as EndPoint,
    Landscape as Landscape,
    classify as classify,
)
from ._predict import (
    predict as predict,
)
from ._soft_threshold import (
    PredictedRank as PredictedRank,
    gap_late_slope as gap_late_slope,
    predicted_rank as predicted_rank,
    soft_threshold as soft_threshold,
)
from ._unbalanced import (
    unbalanced as unbalanced,
)
