"""The server with the fault that the races must find: its store's claim selects first and deletes afterwards.

python -m tests.select_then_delete
gunicorn 'tests.select_then_delete:app()'
"""

from __future__ import annotations

import time

from records import Claim, RowId
from storage.sqlite import SqliteStore, _destroy
from tests import clocked


def select_then_delete(store: SqliteStore, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
    found = store._one("SELECT n, views_left FROM messages WHERE id = ? AND ended IS NULL AND views_left > 0", (row_id,))
    if found is None:
        return None
    time.sleep(0.001)  # the lock is free for as long as a database over a network takes; who comes now selects the same view
    n, views_left = found
    with store._transaction() as db:
        db.execute("UPDATE messages SET views_left = ? WHERE n = ?", (views_left - 1, n))
        if views_left == 1:
            _destroy(db, n, "spent")
    return Claim(views_left - 1)


SqliteStore.claim = select_then_delete  # type: ignore[method-assign]
app = clocked.app

if __name__ == "__main__":
    clocked.main()
