r"""From condensation to rank collapse: a one-layer transformer from small initialisation.

    f(X) = σ(softmax(X W_Q W_Kᵀ Xᵀ/√d) X W_V W1) W2 at the last token,   L = mean of ℓ(y f(X)),

y = ±1, from weights of size ε. Tokens are rows. Two stages have closed forms:

1. **Escape and condensation.** With v along Σ y_i x̄_i (`condensation_direction`), a = (vW_V)ᵀ/ε,
   B = W1/ε, c = W2/ε follow a' = Bc, B' = acᵀ, c' = Bᵀa in the time εmt, which ends in a blow-up
   (`blow_up_time`, `blow_up_bounds`, `rank_one_blow_up`, `escape_time`). W_V, W1, W2 become rank
   one (`blow_up_limit`, `value_cosines`) while W_Q, W_K do not move.
2. **Plateau and rank collapse.** W_Q' = F W_K, W_K' = FᵀW_Q with F from data (`key_query_matrix`,
   `key_query`, `key_query_limit`, `plateau`): W_Q and W_K become rank one, if σ₁(F) is simple.

`separability` tells whether stage 2 has a plateau at all; `assumption_shares`, `stable_rank`,
`effective_rank`, `row_cosines`, `relative_change`, `singular_vector_drift` and `spectral_gap`
are what the paper measures. The two-layer network is `theory.two_layer_condensation`.

The wait 1/ε of the first stage is that of gradient flow. **Adam removes it**: never compare it
with training by Adam(W). Paper: 2510.06954 (Chen, Luo, NeurIPS 2025).
"""

from ._blow_up import (
    BlowUpBounds as BlowUpBounds,
    BlowUpLimit as BlowUpLimit,
    BlowUpTime as BlowUpTime,
    blow_up_bounds as blow_up_bounds,
    blow_up_limit as blow_up_limit,
    blow_up_time as blow_up_time,
)
from ._direction import (
    Direction as Direction,
    condensation_direction as condensation_direction,
    escape_time as escape_time,
    key_query_matrix as key_query_matrix,
    value_cosines as value_cosines,
)
from ._effective_flow import (
    EffectiveChain as EffectiveChain,
    effective_course as effective_course,
)
from ._key_query import (
    KeyQueryDirections as KeyQueryDirections,
    KeyQueryLimit as KeyQueryLimit,
    Plateau as Plateau,
    key_query as key_query,
    key_query_directions as key_query_directions,
    key_query_limit as key_query_limit,
    plateau as plateau,
)
from ._measures import (
    assumption_shares as assumption_shares,
    effective_rank as effective_rank,
    ordered_cosines as ordered_cosines,
    relative_change as relative_change,
    row_cosines as row_cosines,
    row_order as row_order,
    singular_vector_drift as singular_vector_drift,
    spectral_gap as spectral_gap,
    stable_rank as stable_rank,
)
from ._predict import (
    predict as predict,
)
from ._rank_one import (
    rank_one_blow_up as rank_one_blow_up,
)
from ._separability import (
    Separability as Separability,
    check_not_separable as check_not_separable,
    separability as separability,
)
from ._three_factors import (
    Conserved as Conserved,
    conserved as conserved,
)
