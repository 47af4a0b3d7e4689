"""Diffrax solvers for gradient flow that Diffrax does not have."""

from .rkc2 import RKC2 as RKC2
from .rock4 import ROCK4 as ROCK4
from .rodas5p import Rodas5P as Rodas5P
from .switching import Switching as Switching
