"""Many runs judged at once, each by its own prediction or all by one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gflow.internal import Displayed, Summary, Table

from ._claims import CONFIRMED, REFUTED, UNDECIDED, Claim
from ._comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd


class BatchComparison(Displayed, Sequence[Comparison]):
    """The comparisons of many runs: `result[i]` is the `Comparison` of run i.

    `passed`: every one of them is. `counts`: claims of each verdict, of all runs together.
    `to_dataframe()`: all rows, with a column `member`.
    """

    def __init__(self, comparisons: Sequence[Comparison]):
        self._comparisons = list(comparisons)

    def __len__(self) -> int:
        return len(self._comparisons)

    def __getitem__(self, i: Any) -> Any:
        return self._comparisons[i]

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self._comparisons)

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self)

    @property
    def claims(self) -> list[Claim]:
        return [claim for one in self for claim in one.claims]

    @property
    def counts(self) -> dict[str, int]:
        """How many claims of all runs have each verdict."""
        found = [claim.verdict for claim in self.claims]
        return {verdict: found.count(verdict) for verdict in (CONFIRMED, UNDECIDED, REFUTED)}

    def cited(self) -> list[str]:
        """What they rest on, for `gflow.cite`."""
        return list(dict.fromkeys(words for one in self for words in one.cited()))

    def to_dataframe(self) -> "pd.DataFrame":
        """The rows of all runs as a `pandas.DataFrame`."""
        import pandas as pd

        frames = [one.to_dataframe().assign(member=i) for i, one in enumerate(self)]
        return pd.concat(frames, ignore_index=True)

    def _summary(self) -> Summary:
        rows = []
        for i, one in enumerate(self):
            worst = next((c for c in one.claims if c.verdict == REFUTED), None)
            open_ = worst or next((c for c in one.claims if c.verdict == UNDECIDED), None)
            said = [str(one.counts[v]) for v in (CONFIRMED, UNDECIDED, REFUTED)]
            reason = "" if open_ is None else f"{open_.key}: {open_.reason}"
            rows.append([str(i), str(len(one.rows)), *said, reason])
        head = ["member", "rows", CONFIRMED, UNDECIDED, REFUTED, "first that is not confirmed"]
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items())
        good = sum(one.passed for one in self)
        title = f"Comparison of {len(self)} runs, of which {good} passed"
        return Summary(title, [], [Table(head, rows)], [counts])
