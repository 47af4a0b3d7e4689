r"""Two-layer linear networks, solved: W₂W₁ at any time, for any shape, from balanced starts.

    L = ½‖Σ − W₂W₁‖²,   W₁' = W₂ᵀ(Σ − W₂W₁) − γW₁,   W₂' = (Σ − W₂W₁)W₁ᵀ − γW₂

with W₁ ∈ R^{h×i}, W₂ ∈ R^{o×h}. Where the imbalance G = W₂ᵀW₂ − W₁W₁ᵀ is λI, the stacked
Q = [W₁ᵀ; W₂] follows a matrix Riccati equation that `_riccati` solves:

    Q' = FQ − ½QQᵀQ,   F = [[−(λ/2 + γ)I, Σᵀ], [Σ, (λ/2 − γ)I]]      (λγ = 0).

From data with inputs whitened empirically, XXᵀ/P = I, take Σ = YXᵀ/P: the loss
(1/2P)‖Y − WX‖² is L plus a constant, on the same clock (unit learning rate).

Papers: Fukumizu 1998; Saxe, McClelland, Ganguli 2014 (1312.6120); Tarmoun et al. 2021; Braun
et al. 2022; Domine et al. 2024 (2409.14623); for symmetric factors 2411.15972.
"""

from ._lazy_to_rich import (
    lazy_to_rich as lazy_to_rich,
    orthogonal_start as orthogonal_start,
)
from ._modes import (
    ModeStage as ModeStage,
    aligned_mode as aligned_mode,
    mode_stages as mode_stages,
    mode_strength as mode_strength,
    mode_time as mode_time,
)
from ._predict import (
    predict as predict,
)
from ._starts import (
    aligned_start as aligned_start,
    balanced_start as balanced_start,
)
from ._symmetric import (
    schur_complement as schur_complement,
    symmetric as symmetric,
)
from ._two_layer import (
    Gram as Gram,
    RestingPoint as RestingPoint,
    resting_point as resting_point,
    two_layer as two_layer,
    two_layer_factors as two_layer_factors,
    two_layer_gram as two_layer_gram,
)
