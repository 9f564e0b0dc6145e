"""Fixtures: a served Mayfly per test module where tests do not disturb one another, or one of its own for a test that does.

All of `test_http_*.py` runs twice, past Flask by the express lane and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import DATABASES, SERVERS, Database, Served, Server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.startswith("tests.test_http_"):
        metafunc.parametrize("express", ["on", "off"], indirect=True, scope="module", ids=["express", "no express"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out gunicorn without the express lane: which lane a request takes does not depend on the WSGI server."""
    items[:] = [item for item in items if (_parameter(item, "server"), _parameter(item, "express")) != ("gunicorn", "off")]


def _parameter(item: pytest.Item, name: str) -> object:
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


@pytest.fixture(scope="module", autouse=True)
def express(request: pytest.FixtureRequest) -> Iterator[str]:
    """`on` or `off` for all servers that the module starts. A module's own fixture that starts one must ask for this one."""
    wanted: str = getattr(request, "param", "on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTS_EXPRESS", wanted)
        yield wanted


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, express: str) -> Server:
    """Each WSGI server in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=DATABASES)
def database(request: pytest.FixtureRequest) -> Database:
    """Each store in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    """The embedded default on granian, shared by the tests of a module; nobody may move its clock far."""
    with Served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def own_served(tmp_path: Path) -> Iterator[Served]:
    """The embedded default on granian, for one test alone."""
    with Served(tmp_path) as running:
        yield running
