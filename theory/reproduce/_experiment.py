"""What a paper hands to `gflow reproduce`."""

import dataclasses
import importlib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import theory.reproduce

#: Of an experiment: it names a folder, and a command line.
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A name on the command line, the paper, one line on what it shows, and what runs.

    `module` has the function `run(report, settings)` and is imported only when it runs: the
    experiment of a single file names itself, `__name__`, and a package whose `__init__` holds
    the experiment names another of its modules, so that it is listed without waiting for JAX.
    `settings` is an instance of a dataclass, written into report.json; `fast`, what `--fast`
    takes in its place, is of the same class (None: the same settings).

    **Raises** ValueError where the name is not of lower-case letters, digits and hyphens, or
    paper, summary or module are empty; TypeError for settings that JSON has no form for.

    ```python
    import dataclasses
    from theory.reproduce import Experiment

    @dataclasses.dataclass(frozen=True)
    class Settings:
        seeds: int = 50

    Experiment("my-paper", "A. Author 2025", "what it shows", __name__, Settings(),
               fast=Settings(seeds=5))
    ```
    """

    name: str
    paper: str
    summary: str
    module: str
    settings: object
    fast: object = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(
                f"An experiment's name is of lower-case letters, digits and single hyphens, as "
                f"'my-paper'; this one is {self.name!r}."
            )
        for field in ("paper", "summary", "module"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip() or "\n" in value:
                raise ValueError(f"{self.name}: {field}={value!r} is to be one line of text.")
        _written(self.name, "settings", self.settings)
        if self.fast is not None:
            _written(self.name, "fast", self.fast)
            if type(self.fast) is not type(self.settings):
                raise TypeError(
                    f"{self.name}: settings are of class {type(self.settings).__name__}, fast of "
                    f"{type(self.fast).__name__}; both go to one `run`."
                )

    def run(self, report: "theory.reproduce.Report", *, fast: bool) -> None:
        """Fill the report by `run(report, settings)` of the module, in the figures' style."""
        settings = self.fast if fast and self.fast is not None else self.settings
        report.settings |= {"fast": fast, **_written(self.name, "settings", settings)}
        run = getattr(importlib.import_module(self.module), "run", None)
        if not callable(run):
            raise AttributeError(
                f"{self.name}: its module {self.module!r} has no function run(report, settings)."
            )
        from . import style

        with style.context():
            run(report, settings)


def _written(name: str, field: str, settings: object) -> dict[str, object]:
    """Settings as they stand in report.json."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(
            f"{name}: {field}={settings!r} is to be an instance of a dataclass, such as Settings()."
        )
    fields = dataclasses.asdict(settings)
    if "fast" in fields:
        raise TypeError(f"{name}: a setting called fast would hide whether --fast was asked for.")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: {field} are written into report.json, which has no form for all of "
            f"{fields}: {error}. Use numbers, strings, tuples of them, and None."
        ) from None
    return fields
