"""The packages as text: their modules, what each imports, and what each public name is.

Nothing is imported: what is loaded lazily, or not at all, is seen as well.
"""

import ast
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("gflow", "theory", "benchmarks")


@dataclass(frozen=True)
class Import:
    """`module` (and `name` in it, where one is taken), of which the line says where."""

    module: str
    name: str | None
    line: int
    #: executed when the importing module is
    at_load: bool

    @property
    def private(self) -> bool:
        parts = [*self.module.split("."), *([self.name] if self.name else [])]
        return any(part.startswith("_") and not part.startswith("__") for part in parts)


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]

    @functools.cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports(self.tree, at_load=True))

    def _imports(self, node: ast.AST, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Import(names=names):
                    for alias in names:
                        yield Import(alias.name, None, child.lineno, at_load)
                case ast.ImportFrom(module=module, names=names, level=level):
                    base = self.package.split(".")[: len(self.package.split(".")) - level + 1]
                    whole = ".".join([*(base if level else []), *([module] if module else [])])
                    for alias in names:
                        yield Import(whole, alias.name, child.lineno, at_load)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    yield from self._imports(child, at_load=False)
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    yield from self._imports(child, at_load=False)
                case _:
                    yield from self._imports(child, at_load)


@functools.cache
def modules(root: Path = ROOT) -> dict[str, Module]:
    """Every module of the packages by its dotted name."""
    found = {}
    for path in itertools.chain.from_iterable((root / p).rglob("*.py") for p in PACKAGES):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def loaded_first(module: Module, known: dict[str, Module]) -> dict[str, int]:
    """The modules that have to be loaded before this one can be, and the line that says so.

    The package that a module lies in is being loaded by then; another one is loaded whole.
    """
    own = {".".join(module.name.split(".")[:k]) for k in range(1, module.name.count(".") + 2)}
    needed: dict[str, int] = {}
    for found in module.imports:
        if not found.at_load:
            continue
        full = f"{found.module}.{found.name}" if found.name else found.module
        parts = (full if full in known else found.module).split(".")
        for k in range(1, len(parts) + 1):
            name = ".".join(parts[:k])
            if name in known and name not in own:
                needed.setdefault(name, found.line)
    return needed


def cycle(edges: dict[str, list[str]]) -> list[str]:
    """A closed path of the graph, or nothing."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack = [(start, iter(edges[start]))] if start not in done else []
        path = [start] if stack else []
        while stack:
            here, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(here)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                stack.append((following, iter(edges.get(following, []))))
    return []


def exported(module: Module, known: dict[str, Module]) -> dict[str, tuple[Module, ast.stmt]]:
    """The functions and classes that a public module offers, and where they are written."""
    stub = module.path.with_suffix(".pyi")
    if stub.exists():
        module = Module(module.name, stub)
    found: dict[str, tuple[Module, ast.stmt]] = {}
    for node in module.tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if not name.startswith("_"):
                found[name] = module, node
            case ast.ImportFrom(names=names):
                for alias in names:
                    if alias.asname == alias.name:  # explicitly re-exported
                        found.update(_definition(module, node, alias.name, known))
    return found


def _definition(
    module: Module, node: ast.ImportFrom, name: str, known: dict[str, Module]
) -> dict[str, tuple[Module, ast.stmt]]:
    """Where a re-exported name is written; nothing for modules and constants."""
    base = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
    source = known.get(".".join([*(base if node.level else []), *filter(None, [node.module])]))
    if source is None:
        return {}
    for child in source.tree.body:
        match child:
            case ast.FunctionDef() | ast.ClassDef() if child.name == name:
                return {name: (source, child)}
            case ast.ImportFrom(names=names) if name in [a.asname for a in names]:
                return _definition(source, child, name, known)
    return {}


def annotations(node: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr]]:
    """Every annotation of a signature under its dotted name: arguments, results and fields."""
    match node:
        case ast.FunctionDef(args=args, returns=returns):
            every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            for argument in every:
                if argument is not None and argument.annotation is not None:
                    yield f"{name}({argument.arg})", argument.annotation
            if returns is not None:
                yield f"{name} ->", returns
        case ast.ClassDef(body=body):
            for child in body:
                match child:
                    case ast.FunctionDef(name=inner) if _public(inner):
                        yield from annotations(child, f"{name}.{inner}")
                    case ast.AnnAssign(target=ast.Name(id=inner)) if _public(inner):
                        yield f"{name}.{inner}", child.annotation


def _public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")
