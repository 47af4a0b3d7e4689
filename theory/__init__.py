"""What papers predict about gradient flow, and its comparison with simulation."""

from . import gradual_rank as gradual_rank
