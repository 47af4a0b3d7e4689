"""What is run in full, and with `--fast`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes ε of starts, seeds and ranks of heads, and the protocol of descent."""

    merged_sizes: tuple[float, ...] = (1e-2, 1e-6, 1e-100)
    #: Followed through all drops.
    separate_sizes: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-8, 1e-20, 1e-60, 1e-100)
    separate_seeds: int = 4
    #: Of the models that the limit algorithm is held against.
    race_sizes: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-20, 1e-50)
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    rank_seeds: int = 3
    #: Followed to the first drop alone.
    escape_sizes: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-6, 1e-10, 1e-20, 1e-40, 1e-60, 1e-100)
    mode_sizes: tuple[float, ...] = (1e-2, 1e-50)
    softmax_heads: tuple[int, ...] = (2, 4)
    #: Pairs in the prompts of softmax heads that are trained on a sample.
    softmax_contexts: tuple[int, ...] = (7, 31)
    #: Starts Θ of linear self-attention with all blocks.
    blocks: int = 4
    #: Shares of prompts with a task of their own, those of in-context learning.
    own_tasks: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    #: Prompts and steps of descent; published are (5000, 6001) and (80000, 10001), whitened.
    merged_protocol: tuple[int, int] = (5000, 6001)
    separate_protocol: tuple[int, int] = (4000, 10001)


FULL = Settings()
FAST = Settings(
    separate_sizes=(1e-2, 1e-3, 1e-100),
    separate_seeds=2,
    race_sizes=(1e-4, 1e-50),
    ranks=(1, 4),
    rank_seeds=1,
    escape_sizes=(1e-2, 1e-4, 1e-20, 1e-100),
    softmax_heads=(2,),
    softmax_contexts=(31,),
    blocks=2,
    own_tasks=(0.0, 0.4, 1.0),
    merged_protocol=(1000, 2001),
    separate_protocol=(1000, 4001),
)
