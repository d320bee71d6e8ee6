"""Who may import whom: the list of ARCHITECTURE.md as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BASE = {"errors", "limits"}
PROCESS = {"wire", "config", "clock", "lifeline", "logs", *BASE}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "clock": set(),
    "config": BASE,
    "logs": {"config"},
    "lifeline": {"clock", *BASE},
    "raft": BASE,
    "kv": BASE,
    "wire": BASE,
    "consensus": {"raft", *PROCESS},
    "storage": {"kv", *PROCESS},
    "api": {"kv", *PROCESS},
    "supervisor": {"consensus", "storage", "api", *PROCESS} - {"wire"},
    "client": {"kv", "wire", "config", "clock", *BASE},
    "cluster": {"supervisor", "config", "clock", "lifeline", "logs", *BASE},
    "cli": {"supervisor", "cluster", "demo", "client", "config", "clock", "lifeline", "logs", *BASE},
    "demo": {"cluster", "supervisor", "client", "config", "clock", *BASE},
}
"""What each part of the package may import of the others."""

OUTSIDE = {
    "monitor": {"config", "clock", "lifeline", "logs", *BASE},
    "bench": set(ALLOWED),
    "launcher.py": {"cli"},
}

PURE = {"raft", "kv"}
PURE_MODULES = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",
    "operator",
    "random",
    "types",
    "typing",
    "vaultdb",
}

ONLY_IN = {
    "time": {"vaultdb/clock.py"},
    "rocksdict": {"vaultdb/storage/engine.py"},
    "zmq": {
        "vaultdb/wire/sockets.py",
        "vaultdb/consensus/process.py",
        "vaultdb/consensus/peers.py",
        "vaultdb/storage/process.py",
        "vaultdb/api/process.py",
        "vaultdb/api/link.py",
    },
}
"""Libraries with one home, or, for zmq, the loops that own sockets."""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(found, ast.Import):
            for alias in found.names:
                yield found.lineno, alias.name
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 0, f"{path}:{found.lineno}: relative import"
            module = found.module or ""
            yield found.lineno, module
            if module == "vaultdb":
                for alias in found.names:
                    yield found.lineno, f"vaultdb.{alias.name}"


def part_of(module: str) -> str | None:
    """The part of the package that a module name belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "vaultdb" and len(names) > 1 else None


def sources(top: str) -> list[Path]:
    path = ROOT / top
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


MODULES = sources("vaultdb")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_package_imports_only_what_its_part_may(path: Path) -> None:
    part = path.relative_to(ROOT / "vaultdb").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = ALLOWED[part] | {part, "__version__"}
    faults = [
        f"line {line}: {name}"
        for line, name in imports_of(path)
        if (target := part_of(name)) is not None and target not in allowed
    ]
    assert not faults, f"{path.relative_to(ROOT)} may import {sorted(allowed)}, but has {faults}"


@pytest.mark.parametrize("top", OUTSIDE)
def test_outer_programs_import_only_what_they_may(top: str) -> None:
    for path in sources(top):
        for line, name in imports_of(path):
            target = part_of(name)
            assert target is None or target in OUTSIDE[top] | {"__version__"}, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", [p for part in PURE for p in sources(f"vaultdb/{part}")], ids=str)
def test_pure_parts_use_only_data_modules(path: Path) -> None:
    for line, name in imports_of(path):
        assert name in PURE_MODULES or name.startswith("vaultdb."), f"{path}:{line} imports {name}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_have_one_home(library: str) -> None:
    for path in MODULES:
        for line, name in imports_of(path):
            if name.split(".")[0] == library:
                where = str(path.relative_to(ROOT))
                assert where in ONLY_IN[library], f"{where}:{line} imports {library}"


def test_no_circles() -> None:
    """The allowed list itself has none, so no module of two parts can import the other in turn."""

    def reach(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, f"circle: {' → '.join((*path, part))}"
        for target in ALLOWED.get(part, ()):
            reach(target, (*path, part))

    for part in ALLOWED:
        reach(part, ())
