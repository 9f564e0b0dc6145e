"""Both servers start as users start them, serve, and stop in good order."""

from __future__ import annotations

from pathlib import Path

from tests.serving import Database, Served, Server


def test_message_is_created_opened_once_and_gone(tmp_path: Path, server: Server, database: Database) -> None:
    with Served(tmp_path, server, database) as served:
        message = served.create("hello", views=1)
        assert message.link == f"{served.url}{message.path}"
        assert served.http.post(message.path).text == "hello"
        assert served.http.post(message.path).status_code == 404
        assert served.stop() == 0
