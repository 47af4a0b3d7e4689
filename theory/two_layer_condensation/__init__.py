"""Condensation of a two-layer network from small weights: f(x) = Σ_j a_j σ(w_j·x)."""

from ._two_layer import (
    Escapes as Escapes,
    LinearCourse as LinearCourse,
    Orientations as Orientations,
    force as force,
    linear_course as linear_course,
    linear_escape as linear_escape,
    orientations as orientations,
    two_layer_escapes as two_layer_escapes,
)
