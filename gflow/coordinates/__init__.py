"""The charts in which weights are integrated, each with the geometry that keeps it accurate.

`Coordinates` is what a chart of your own derives from; `LeafRecord` what a run keeps of a leaf.
"""

from ._arrays import ArrayCoordinates as ArrayCoordinates
from ._base import Coordinates as Coordinates
from ._record import LeafRecord as LeafRecord
from ._view import View as View
