"""The three figures of ranks of heads."""

from matplotlib.figure import Figure

from ..trained_heads import figures
from ..trained_heads.ranks import Ranks


def draw(found: Ranks) -> dict[str, Figure]:
    """By name: spectra at several losses, ranks over training, ranks over the scale."""
    return {
        "spectra": figures.spectra(found),
        "courses": figures.courses(found),
        "scales": figures.over_scales(found),
    }
