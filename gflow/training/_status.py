"""How a run of discrete steps ended."""

import enum


class DescentStatus(enum.Enum):
    """How a run ended; the value is the message."""

    reached = "made the requested number of steps"
    diverged = (
        "diverged: the loss became NaN or infinite. Likely causes: (a) the learning rate is above "
        "2/(largest curvature), (b) the loss is unbounded below or undefined where the weights "
        "went. Pass a smaller learning rate; the records before are kept"
    )
    interrupted = "interrupted by the user"

    @property
    def successful(self) -> bool:
        return self is DescentStatus.reached
