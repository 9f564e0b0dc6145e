"""Imports point down, and each library stays in its room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
LAYERS = (
    {"server"},
    {"web", "scheduler", "commands"},
    {"access"},
    {"messages"},
    {"drafts"},
    {"fields"},
    {"audit"},
    {"database"},
    {"storage"},
    {"keyfile"},
    {"crypto", "sanitize", "metrics", "logs"},
    {"settings"},
    {"errors"},
    {"records"},
)
"""From top to bottom; a module may import what stands below it, and nothing beside it."""

ROOMS = {
    "flask": {"web", "server"},
    "sqlite3": {"storage"},
    "sqlalchemy": {"storage"},
    "redis": {"storage"},
    "valkey": {"storage"},
    "bleach": {"sanitize"},
}
STRANGERS = {("database", "crypto"), ("crypto", "database")}
"""Rows and keys meet in `messages` alone."""
APART = {"tests", "bench", "client", "docs"}
"""Folders beside the server that it never imports."""
SERVER_SETTINGS = {"gunicorn.conf.py"}  # no module: gunicorn runs it as a file

_DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each absolute import in a file, wherever in it; also those by a function with a constant name."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("__import__", "import_module"):
                yield node.lineno, str(node.args[0].value).split(".")[0]


def modules_in(root: Path) -> dict[str, list[Path]]:
    """The files of each top-level module and package of the server."""
    found = {path.stem: [path] for path in root.glob("*.py") if path.name not in SERVER_SETTINGS}
    for package in root.iterdir():
        if package.name not in APART and (package / "__init__.py").exists():
            found[package.name] = sorted(package.rglob("*.py"))
    return found


def offences(root: Path) -> list[str]:
    """What breaks the order, each as `file:line imports name`."""
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for module, paths in sorted(modules_in(root).items())
        for path in paths
        for line, name in imports_of(path)
        if not _may_import(module, name)
    ]


def _may_import(module: str, name: str) -> bool:
    if name == module:
        return True
    if name in APART or (module, name) in STRANGERS or module not in ROOMS.get(name, {module}):
        return False
    return name not in _DEPTH or _DEPTH[module] < _DEPTH[name]


def test_imports_point_down_and_libraries_stay_in_their_rooms() -> None:
    assert offences(PROJECT) == []


def test_every_top_level_module_has_a_place_in_the_order() -> None:
    assert set(modules_in(PROJECT)) <= set(_DEPTH)


def test_there_are_at_most_15_flat_modules() -> None:
    flat = [name for name, paths in modules_in(PROJECT).items() if paths[0].parent == PROJECT]
    assert len(flat) <= 15, flat


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("database.py", "import crypto"),
        ("crypto.py", "from database import open_database"),
        ("messages/__init__.py", "from web import app"),
        ("records.py", "from errors import NotFound"),
        ("scheduler.py", "import commands"),
        ("messages/__init__.py", "from flask import request"),
        ("commands.py", "import sqlite3"),
        ("messages/__init__.py", "import bleach.sanitizer"),
        ("storage/sqlite.py", "import crypto"),
        ("web/app.py", "def late(): from tests import serving"),
        ("settings.py", "__import__('server')"),
        ("crypto.py", "importlib.import_module('storage.sqlite')"),
    ],
)
def test_offender_is_named(tmp_path: Path, file: str, line: str) -> None:
    """The check itself can fail; storage may import crypto, which stands below it, and is the one line here that passes."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    (tmp_path / "__init__.py").unlink(missing_ok=True)
    path.write_text(f"import os\n{line}\n")
    named = [offence.partition(" ")[0] for offence in offences(tmp_path)]
    assert named == ([] if file.startswith("storage") else [f"{file}:2"])
