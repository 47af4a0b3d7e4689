"""A mapping whose values are computed when they are first asked for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Lazy(Mapping[str, Any]):
    """Name → value, from name → function; a value is computed once."""

    def __init__(self, functions: Mapping[str, Callable[[], Any]]):
        self._functions = dict(functions)
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = self._functions[name]()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __reduce__(self) -> tuple[Any, ...]:
        return _constant, (dict(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


def _constant(values: dict[str, Any]) -> Lazy:
    return Lazy({name: lambda x=x: x for name, x in values.items()})
