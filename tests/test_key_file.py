"""key.json: what is refused, how it is made and changed, and how a running server follows it."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import keyfile
from errors import KeyFileRefused, KeyMissing
from records import KeyId
from tests.serving import PROJECT

KEY_A = base64.urlsafe_b64encode(bytes(range(32))).decode()
KEY_B = base64.urlsafe_b64encode(bytes(range(1, 33))).decode()
ADMIN = "a-token-of-thirty-two-characters"
GOOD: dict[str, Any] = {
    "current": "2026-11-aaaa",
    "keys": {"2026-11-aaaa": {"key": KEY_A}, "2026-10-bbbb": {"key": KEY_B, "retired_at": "2026-11-01T00:00:00Z"}},
    "admin_token": ADMIN,
}
SECRETS = (KEY_A, KEY_B, KEY_A[:20], KEY_B[:20], ADMIN)
NOW = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good key file."""
    return written(tmp_path / "key.json", json.dumps(GOOD))


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def changed(**parts: Any) -> str:
    return json.dumps({name: value for name, value in {**GOOD, **parts}.items() if value is not None})


def with_key(name: str, entry: Any) -> str:
    return changed(keys={"2026-11-aaaa": {"key": KEY_A}, name: entry})


def refusal_of(path: Path, why: str = "") -> str:
    """The refusal, after checking what holds for each: one line that names the file and holds no key bytes."""
    with pytest.raises(KeyFileRefused) as refused:
        keyfile.read(path)
    line = str(refused.value)
    assert why in line
    assert line.startswith(f"key file {path}: ")
    assert len(line.splitlines()) == 1
    assert not any(secret in line for secret in SECRETS)
    return line


def look_now(keys: keyfile.KeyFile) -> None:
    """Let the second between two looks at the file have passed."""
    keys._looked_at -= 2


# What is refused

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "it is empty"),
    "blank": (" \n\t", "it is empty"),
    "not JSON": (json.dumps(GOOD)[:-1], "it is not JSON"),
    "not UTF-8": (json.dumps(GOOD).replace("aaaa", "\xe9").encode("latin-1"), "it is not JSON"),
    "too deep": ("[" * 100_000, "it is not JSON"),
    "a number too long": ('{"current": ' + "9" * 5000 + "}", "it is not JSON"),
    "two keys of one name": (json.dumps(GOOD).replace("2026-10-bbbb", "2026-11-aaaa"), "it is not JSON"),
    "admin_token twice": (json.dumps(GOOD)[:-1] + f', "admin_token": "{ADMIN}"}}', "it is not JSON"),
    "a list": (json.dumps([GOOD]), "it must be an object with"),
    "null": ("null", "it must be an object with"),
    "no current": (changed(current=None), "it must be an object with"),
    "no keys": (changed(keys=None), "it must be an object with"),
    "no admin token": (changed(admin_token=None), "it must be an object with"),
    "another field": (changed(old=[KEY_A]), "it must be an object with"),
    "keys in a list": (changed(keys=[KEY_A]), '"keys" must be an object with at least one key'),
    "no key": (changed(keys={}), '"keys" must be an object with at least one key'),
    "a key id with a slash": (with_key("../b", {"key": KEY_B}), "a key id is 1 to 64 letters"),
    "a key id that is a key": (with_key(KEY_B, {"key": KEY_B}), "a key id is 1 to 64 letters"),
    "an empty key id": (with_key("", {"key": KEY_B}), "a key id is 1 to 64 letters"),
    "a key id of 65": (with_key("b" * 65, {"key": KEY_B}), "a key id is 1 to 64 letters"),
    "a key id with a line feed": (with_key("b\nb", {"key": KEY_B}), "a key id is 1 to 64 letters"),
    "half a character": (json.dumps(GOOD).replace("2026-10-bbbb", "\\ud800"), "a key id is 1 to 64 letters"),
    "a bare key": (with_key("b", KEY_B), 'key b must be an object with "key"'),
    "an entry without a key": (with_key("b", {"retired_at": "2026-11-01T00:00:00Z"}), 'key b must be an object with "key"'),
    "a field more in an entry": (with_key("b", {"key": KEY_B, "note": KEY_A}), 'key b must be an object with "key"'),
    "a short key": (with_key("b", {"key": KEY_B[4:]}), "key b is not a Fernet key"),
    "a long key": (with_key("b", {"key": "AAAA" + KEY_B}), "key b is not a Fernet key"),
    "a key with a blank": (with_key("b", {"key": KEY_B[:-1] + " ="}), "key b is not a Fernet key"),
    "a key of letters beyond ASCII": (with_key("b", {"key": "é" * 44}), "key b is not a Fernet key"),
    "a key that is a number": (with_key("b", {"key": 7}), "key b is not a Fernet key"),
    "a key of zeros": (with_key("b", {"key": base64.urlsafe_b64encode(bytes(32)).decode()}), "key b is not a Fernet key"),
    "the example's key": (with_key("b", {"key": "a Fernet key: make this file with"}), "key b is not a Fernet key"),
    "retired at no time": (with_key("b", {"key": KEY_B, "retired_at": "soon"}), '"retired_at" of key b must be a time'),
    "retired at null": (with_key("b", {"key": KEY_B, "retired_at": None}), '"retired_at" of key b must be a time'),
    "retired at a local time": (
        with_key("b", {"key": KEY_B, "retired_at": "2026-11-01T00:00:00"}),
        '"retired_at" of key b must be',
    ),
    "one key under two ids": (with_key("b", {"key": KEY_A}), "two keys are the same"),
    "a current key that is not there": (changed(current="2026-12-cccc"), '"current" does not name one of its keys'),
    "a current key that is a list": (changed(current=["2026-11-aaaa"]), '"current" does not name one of its keys'),
    "a current key that is retired": (changed(current="2026-10-bbbb"), "the current key 2026-10-bbbb is retired"),
    "an empty admin token": (changed(admin_token=""), '"admin_token" must be at least 32 characters'),
    "a short admin token": (changed(admin_token=ADMIN[1:]), '"admin_token" must be at least 32 characters'),
    "an admin token that is a number": (changed(admin_token=10**40), '"admin_token" must be at least 32 characters'),
    "an admin token with a line feed": (changed(admin_token=ADMIN + "\n"), '"admin_token" must be at least 32 characters'),
    "an admin token beyond ASCII": (changed(admin_token="é" * 40), '"admin_token" must be at least 32 characters'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_file_is_refused(tmp_path: Path, case: str) -> None:
    text, why = REFUSED[case]
    refusal_of(written(tmp_path / "key.json", text), why)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    refusal_of(tmp_path / "key.json", "it does not exist")
    refusal_of(tmp_path / "no folder" / "key.json", "it does not exist")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    """A pipe too, without waiting for somebody to write into it."""
    refusal_of(tmp_path, "it cannot be read (Is a directory)")
    os.mkfifo(tmp_path / "pipe", 0o600)
    refusal_of(tmp_path / "pipe", "it is not a regular file")


def test_symlinks_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refusal_of(tmp_path / "a", "it cannot be read")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666, 0o777])
def test_file_that_everyone_may_use_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    refusal_of(path, "everyone on this machine may use it")


@pytest.mark.parametrize("mode", [0o620, 0o660])
def test_file_that_the_group_may_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    refusal_of(path, "its group may write it")


def test_file_that_the_group_may_read_is_refused_unless_root_owns_it(path: Path) -> None:
    """Kubernetes mounts a secret so: root owns it, the pod's group may read it."""
    path.chmod(0o640)
    if os.geteuid() == 0:
        assert keyfile.read(path).current == "2026-11-aaaa"
        os.chown(path, 65534, -1)
    refusal_of(path, "its group may read it, and root does not own it")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_file_of_its_owner_is_taken(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert keyfile.read(path).current == "2026-11-aaaa"


def test_file_inside_the_project_is_refused() -> None:
    refusal_of(PROJECT / "key.json", "it is inside the project's folder")
    refusal_of(PROJECT / "docs" / ".." / "tests" / "key.json", "it is inside the project's folder")


def test_example_works_nowhere(tmp_path: Path) -> None:
    refusal_of(PROJECT / "key.json.example", "it is inside the project's folder")
    refusal_of(written(tmp_path / "key.json", (PROJECT / "key.json.example").read_text()), "is not a Fernet key")


def test_symlink_is_judged_by_its_target(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert keyfile.read(link).current == "2026-11-aaaa"
    path.chmod(0o644)
    refusal_of(link, "everyone on this machine may use it")
    link.unlink()
    link.symlink_to(PROJECT / "key.json.example")
    refusal_of(link, "it is inside the project's folder")


# Making and changing it


def test_created_file_is_good_its_owners_alone_and_never_twice_the_same(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        rings = [keyfile.create(tmp_path / name / "mayfly" / "key.json") for name in "ab"]
    finally:
        os.umask(mask)
    for name, ring in zip("ab", rings, strict=True):
        assert (tmp_path / name / "mayfly" / "key.json").stat().st_mode & 0o777 == 0o600
        assert keyfile.read(tmp_path / name / "mayfly" / "key.json") == ring
    assert rings[0].admin_token != rings[1].admin_token
    assert rings[0].masters[rings[0].current].secret != rings[1].masters[rings[1].current].secret


def test_creating_replaces_nothing(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(KeyFileRefused, match="there is one already"):
        keyfile.create(path)
    assert path.read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileRefused, match="there is one already"):
        keyfile.create(tmp_path / "link")


def test_creating_is_refused_inside_the_project_and_where_nothing_can_be_written() -> None:
    with pytest.raises(KeyFileRefused, match="inside the project"):
        keyfile.create(PROJECT / "key.json")
    assert not (PROJECT / "key.json").exists()
    with pytest.raises(KeyFileRefused, match="cannot be written"):
        keyfile.create(Path("/proc/none/key.json"))


def test_default_place_is_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    assert keyfile.default_path({}) == Path("/home/user/.config/mayfly/key.json")
    assert keyfile.default_path({"XDG_CONFIG_HOME": "/etc/xdg"}) == Path("/etc/xdg/mayfly/key.json")
    # The XDG Base Directory specification: a relative path is to be ignored.
    assert keyfile.default_path({"XDG_CONFIG_HOME": "here"}) == Path("/home/user/.config/mayfly/key.json")


def test_rotation_adds_a_key_selects_it_and_keeps_the_old_one(path: Path) -> None:
    before = keyfile.read(path)
    name = keyfile.rotate(path, NOW)
    after = keyfile.read(path)
    assert after.current == name
    assert set(after.masters) == {*before.masters, name}
    assert after.masters[before.current] == before.masters[before.current]
    assert after.admin_token == before.admin_token
    assert json.loads(path.read_text())["keys"]["2026-11-aaaa"]["retired_at"] == "2026-11-20T08:00:00Z"
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_keeps_mode_owner_and_symlink(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    path.chmod(0o400)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    owner = path.stat().st_uid
    keyfile.rotate(link, NOW)
    assert link.is_symlink()
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o400, owner)
    assert len(keyfile.read(path).masters) == 3


def test_change_leaves_no_copy_of_the_keys_behind(path: Path) -> None:
    keyfile.rotate(path, NOW)
    keyfile.drop(path, "2026-10-bbbb", NOW)
    assert {file.name for file in path.parent.iterdir()} == {"key.json", "key.json.lock"}
    assert path.with_name("key.json.lock").read_bytes() == b""


def test_key_is_dropped_eight_days_after_its_retirement_and_not_before(path: Path) -> None:
    retired = datetime(2026, 11, 1, tzinfo=UTC)
    with pytest.raises(KeyFileRefused, match="may still be needed"):
        keyfile.drop(path, "2026-10-bbbb", retired + timedelta(days=8) - timedelta(microseconds=1))
    assert len(keyfile.read(path).masters) == 2
    keyfile.drop(path, "2026-10-bbbb", retired + timedelta(days=8))
    assert set(keyfile.read(path).masters) == {"2026-11-aaaa"}


def test_current_and_unknown_keys_are_not_dropped(path: Path) -> None:
    with pytest.raises(KeyFileRefused, match="may still be needed"):
        keyfile.drop(path, "2026-11-aaaa", NOW + timedelta(days=1000))
    with pytest.raises(KeyFileRefused, match="it has no key 2026-12-cccc"):
        keyfile.drop(path, "2026-12-cccc", NOW)


def test_keys_are_listed_with_their_retirement_and_nothing_else(path: Path) -> None:
    assert keyfile.describe(path) == [("2026-11-aaaa", "current"), ("2026-10-bbbb", "2026-11-01T00:00:00Z")]


@pytest.mark.parametrize(
    "change", [lambda path: keyfile.rotate(path, NOW), lambda path: keyfile.drop(path, "a", NOW), keyfile.describe]
)
def test_refused_file_is_not_changed(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """Nor is anything put beside it."""
    with pytest.raises(KeyFileRefused, match="does not exist"):
        change(tmp_path / "none" / "key.json")
    broken = written(tmp_path / "key.json", changed(current="none"))
    with pytest.raises(KeyFileRefused, match='"current" does not name'):
        change(broken)
    assert broken.read_text() == changed(current="none")
    assert [file.name for file in tmp_path.iterdir()] == ["key.json"]


ROTATE_TEN_TIMES = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import keyfile
sys.stdin.read(1)
for _ in range(10):
    print(keyfile.rotate(Path(sys.argv[1]), datetime.now(UTC)))
"""


def test_concurrent_rotations_lose_no_key(path: Path) -> None:
    rotating = [
        subprocess.Popen(
            [sys.executable, "-c", ROTATE_TEN_TIMES, str(path)],
            cwd=PROJECT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in rotating:
        assert process.stdin
        process.stdin.write("g")
        process.stdin.flush()
    made = [name for process in rotating for name in process.communicate(timeout=60)[0].split()]
    ring = keyfile.read(path)
    assert len(made) == 40
    assert set(ring.masters) == {*GOOD["keys"], *made}
    assert [name for name, state in keyfile.describe(path) if state == "current"] == [ring.current]


def test_readers_never_see_half_a_file(path: Path) -> None:
    """A change takes the file's place whole."""
    ended = threading.Event()
    seen = []

    def read() -> None:
        while not ended.is_set():
            seen.append(keyfile.read(path).current)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        made = [keyfile.rotate(path, NOW) for _ in range(20)]
    finally:
        ended.set()
        reader.join()
    assert set(seen) <= {KeyId("2026-11-aaaa"), *made}


# A running server follows it


def test_running_server_picks_a_rotation_up(path: Path) -> None:
    keys = keyfile.KeyFile(path)
    before = keys.ring()
    name = keyfile.rotate(path, NOW)
    assert keys.ring() is before, "the file is looked at once a second"
    look_now(keys)
    assert keys.ring().current == name


def test_unknown_key_id_is_looked_for_at_once(path: Path) -> None:
    """Another process has rotated and sealed within this second."""
    keys = keyfile.KeyFile(path)
    name = keyfile.rotate(path, NOW)
    assert name in keys.ring_with(name).masters
    with pytest.raises(KeyMissing):
        keys.ring_with(KeyId("2026-12-cccc"))


def test_unchanged_file_is_not_read_again_for_an_unknown_key_id(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Envelopes of a foreign key cost a look, not a reading each."""
    keys = keyfile.KeyFile(path)
    read: list[Path] = []
    monkeypatch.setattr(keyfile, "read", read.append)
    for _ in range(3):
        with pytest.raises(KeyMissing):
            keys.ring_with(KeyId("2026-12-cccc"))
    assert read == []


@pytest.mark.parametrize("breakage", ["malformed", "open to everyone", "gone"])
def test_broken_change_keeps_the_keys_and_is_logged_without_key_bytes(
    path: Path, caplog: pytest.LogCaptureFixture, breakage: str
) -> None:
    keys = keyfile.KeyFile(path)
    before = keys.ring()
    if breakage == "malformed":
        path.write_text(changed(current=KEY_A))
    elif breakage == "open to everyone":
        path.chmod(0o644)
    else:
        path.unlink()
    for _ in range(3):
        look_now(keys)
        assert keys.ring() is before
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "the keys read before stay in use" in record.getMessage()
    assert not any(secret in record.getMessage() for secret in SECRETS)
    assert record.exc_info is None


def test_mended_file_is_picked_up(path: Path) -> None:
    keys = keyfile.KeyFile(path)
    path.write_text("{")
    look_now(keys)
    keys.ring()
    path.write_text(changed(keys={"2026-11-aaaa": {"key": KEY_B}}))
    look_now(keys)
    assert keys.ring().masters == keyfile.read(path).masters


def test_file_mended_by_chmod_alone_is_picked_up(path: Path) -> None:
    keys = keyfile.KeyFile(path)
    path.write_text(changed(keys={"2026-11-aaaa": {"key": KEY_B}}))
    path.chmod(0o644)
    look_now(keys)
    keys.ring()
    path.chmod(0o600)
    look_now(keys)
    assert keys.ring().masters == keyfile.read(path).masters


def test_swapped_symlink_is_picked_up(path: Path, tmp_path: Path) -> None:
    """Kubernetes renews a mounted secret so."""
    link = tmp_path / "link"
    link.symlink_to(path)
    keys = keyfile.KeyFile(link)
    written(tmp_path / "next", changed(keys={"2026-11-aaaa": {"key": KEY_B}}))
    (tmp_path / "new link").symlink_to(tmp_path / "next")
    (tmp_path / "new link").replace(link)
    look_now(keys)
    assert keys.ring().masters == keyfile.read(tmp_path / "next").masters
