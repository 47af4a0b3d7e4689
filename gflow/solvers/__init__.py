"""Diffrax solvers for gradient flow that Diffrax does not have."""

from ._rkc2 import RKC2 as RKC2
from ._rock4 import ROCK4 as ROCK4
from ._rodas5p import Rodas5P as Rodas5P
from ._switching import Switching as Switching
