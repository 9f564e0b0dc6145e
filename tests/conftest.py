"""Fixtures: a served Mayfly per test module where tests do not disturb one another, or one of its own for a test that does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import DATABASES, SERVERS, Database, Served, Server


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each WSGI server in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=DATABASES)
def database(request: pytest.FixtureRequest) -> Database:
    """Each store in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The embedded default on granian, shared by the tests of a module; nobody may move its clock far."""
    with Served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def own_served(tmp_path: Path) -> Iterator[Served]:
    """The embedded default on granian, for one test alone."""
    with Served(tmp_path) as running:
        yield running
