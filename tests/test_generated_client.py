"""A client that openapi-python-client makes of the served document does what people do with messages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Served

OPENS_AND_BURNS = """
import sys
from made import Client
from made.api.open_ import burn_message, create_message, look_at_message, open_message, see_receipt
from made.models import Created, Message, MessageFormat, Opened, Problem, Receipt, ReceiptState, Waiting

client = Client(base_url=sys.argv[1], headers={"Accept": "application/json"})

created = create_message.sync(client=client, body=Message(message="The door code is 4711", views=2))
assert isinstance(created, Created), created
token = created.receipt.rpartition("/")[2]
waiting = look_at_message.sync(str(created.id), client=client)
assert isinstance(waiting, Waiting) and waiting.views_left == 2, waiting
opened = open_message.sync(str(created.id), client=client, idempotency_key="8f14e45fceea167a5a36dedd4bea2543")
assert isinstance(opened, Opened) and opened.message == "The door code is 4711" and opened.views_left == 1, opened
receipt = see_receipt.sync(token, client=client)
assert isinstance(receipt, Receipt) and receipt.state is ReceiptState.OPENED and len(receipt.opened) == 1, receipt
burned = burn_message.sync(token, client=client)
assert isinstance(burned, Receipt) and burned.state is ReceiptState.BURNED, burned
gone = open_message.sync(str(created.id), client=client)
assert isinstance(gone, Problem) and gone.status == 404, gone
refused = create_message.sync(client=client, body=Message(message="", views=0))
assert isinstance(refused, Problem) and (refused.status, refused.field) == (400, "views"), refused
print("done")
"""

GUARDS = """
import sys
from made import AuthenticatedClient, Client
from made.api.guarded import create_guarded_message, open_guarded_message
from made.models import Created, GuardedMessage, OpenedRecord, Problem, Record, RecordFormat, RecordMessage, RecordPolicy

key = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2], headers={"Accept": "application/json"})
card = RecordMessage.from_dict({"name": "Ana Prado", "card": "4111111111111111"})
policy = RecordPolicy.from_dict({"support": {"name": "show", "card": "mask"}})
record = Record(message=card, format_=RecordFormat.RECORD, policy=policy, audience=["role:support"], views=1)
created = create_guarded_message.sync(client=key, body=record)
assert isinstance(created, Created), created
nobody = open_guarded_message.sync(str(created.id), client=Client(base_url=sys.argv[1], headers={"Accept": "application/json"}))
assert isinstance(nobody, Problem) and nobody.status == 401, nobody
opened = open_guarded_message.sync(str(created.id), client=key)
assert isinstance(opened, OpenedRecord), opened
assert opened.record.to_dict() == {"name": "Ana Prado", "card": "\u2022\u2022\u2022\u20221111"}, opened
assert opened.masked == ["card"], opened
print("done")
"""


@pytest.fixture(scope="module")
def made(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the generated package `made` is."""
    folder = tmp_path_factory.mktemp("client")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{served.url}/openapi.json"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # ruff, which formats what it makes
    ran = subprocess.run(
        [*command, "--meta", "none", "--output-path", str(folder / "made")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Error" not in ran.stdout + ran.stderr
    yield folder


def _run(made: Path, program: str, *arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program, *arguments], cwd=made, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_generated_client_creates_opens_and_burns(made: Path, served: Served) -> None:
    assert _run(made, OPENS_AND_BURNS, served.url) == "done\n"


def test_generated_client_shows_an_api_key_and_gets_its_view_of_a_record(made: Path, served: Served) -> None:
    served.add_account("support@example.com", "support")
    key = served.make_key("support@example.com", "messages:create", "messages:read")["key"]
    assert _run(made, GUARDS, served.url, key) == "done\n"
