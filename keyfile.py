"""The key file, key.json: read, watched for changes, made, rotated.

What belongs here: the file and its form. What its keys do is `crypto`'s.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from cryptography.fernet import Fernet

from crypto import KeyRing, MasterKey
from errors import KeyFileRefused, KeyMissing
from records import KeyId

PROJECT = Path(__file__).resolve().parent
DROP_AFTER = timedelta(days=8)
"""How long after its retirement a key may be needed: a day longer than any message lives."""

_log = logging.getLogger("mayfly.keys")


class KeyFile:
    """key.json, read at the start, again when it changes, and once more on meeting an unknown key id.

    Looking at the file costs a `stat`, at most one a second. When a changed file is refused, the last good ring stays in
    use and the log says why: a slip in an editor must not take every message with it.
    """

    _LOOK_AGAIN_SECONDS = 1.0

    def __init__(self, path: Path) -> None:
        """Raise KeyFileRefused if the file cannot be used."""
        self.path = path
        self._lock = threading.Lock()
        self._mark = _file_mark(path)
        self._ring = read(path)
        self._looked_at = time.monotonic()

    def ring(self) -> KeyRing:
        """The ring as the file has it now."""
        if time.monotonic() - self._looked_at >= self._LOOK_AGAIN_SECONDS:
            self._look()
        return self._ring

    def ring_with(self, key_id: KeyId) -> KeyRing:
        """The ring, read again first if it lacks `key_id`. Raises KeyMissing if it still does."""
        ring = self.ring()
        if key_id not in ring.masters:
            self._look()
            ring = self._ring
            if key_id not in ring.masters:
                raise KeyMissing
        return ring

    def _look(self) -> None:
        with self._lock:
            self._looked_at = time.monotonic()
            mark = _file_mark(self.path)
            if mark == self._mark:
                return
            self._mark = mark
            try:
                self._ring = read(self.path)
            except KeyFileRefused as refusal:
                _log.error("the key file changed and is refused, the keys read before stay in use: %s", refusal)
            else:
                _log.warning("the key file changed and was read; current key %s", self._ring.current)


def _file_mark(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    # The time of change too: a chmod may be what mends a refused file.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)


def default_path(environ: dict[str, str] | os._Environ[str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/mayfly/key.json`; the variable defaults to ~/.config (XDG Base Directory)."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "mayfly" / "key.json"


def read(path: Path) -> KeyRing:
    """Read and check key.json. A symlink is judged by its target (Kubernetes mounts secrets so).

    Raises KeyFileRefused, one line that names the file and the cure and holds no key bytes.
    """
    return _ring_of(path, _read_document(path))


def read_private(path: Path, what: str, if_missing: str) -> bytes:
    """The bytes of a file that only its owner may read, or root's group with it. A symlink is judged by its target.

    Raises KeyFileRefused, one line that begins with `what` and says, with `if_missing` for a file that is not there, what to do.
    """

    def refuse(why: str) -> NoReturn:
        raise KeyFileRefused(f"{what}: {why}") from None

    target = _target(path)
    if target.is_relative_to(PROJECT):
        refuse("it is inside the project's folder, where it would be committed or copied along; move it out")
    try:
        with open(os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                refuse("it is not a regular file")
            if status.st_mode & 0o007:
                refuse("everyone on this machine may use it; run chmod 600 on it")
            if status.st_mode & 0o020:
                refuse("its group may write it; run chmod 600 on it")
            if status.st_mode & 0o040 and status.st_uid != 0:
                refuse("its group may read it, and root does not own it; run chmod 600 on it")
            return file.read()
    except FileNotFoundError:
        refuse(f"it does not exist; {if_missing}")
    except OSError as error:
        refuse(f"it cannot be read ({error.strerror})")


def _read_document(path: Path) -> dict[str, Any]:
    def refuse(why: str) -> NoReturn:
        raise KeyFileRefused(f"key file {path}: {why}")

    raw = read_private(path, f"key file {path}", "put the old one back, or make a new one with: python server.py keys create")
    if not raw.strip():
        refuse("it is empty; put the old one back")
    try:
        document = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        refuse("it is not JSON; see key.json.example")
    if not isinstance(document, dict) or set(document) != {"current", "keys", "admin_token"}:
        refuse('it must be an object with "current", "keys" and "admin_token"; see key.json.example')
    return document


def _target(path: Path) -> Path:
    """What a symlink leads to in the end. A loop is left for `open` to refuse: `Path.resolve` would raise RuntimeError."""
    return Path(os.path.realpath(path))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _ring_of(path: Path, document: dict[str, Any]) -> KeyRing:
    def refuse(why: str) -> NoReturn:
        raise KeyFileRefused(f"key file {path}: {why}")

    keys, current, admin_token = document["keys"], document["current"], document["admin_token"]
    if not isinstance(keys, dict) or not keys:
        refuse('"keys" must be an object with at least one key')
    masters = {}
    for name, entry in keys.items():
        if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64):
            refuse("a key id is 1 to 64 letters, digits, - and _")
        if not isinstance(entry, dict) or not {"key"} <= set(entry) <= {"key", "retired_at"}:
            refuse(f'key {name} must be an object with "key" and perhaps "retired_at"')
        try:
            masters[KeyId(name)] = _master_of(entry["key"])
        except ValueError:
            refuse(f"key {name} is not a Fernet key (44 characters of URL-safe base64)")
        if "retired_at" in entry and _parse_time(entry["retired_at"]) is None:
            refuse(f'"retired_at" of key {name} must be a time such as 2026-11-01T00:00:00Z')
    if len({master.secret for master in masters.values()}) != len(masters):
        refuse("two keys are the same")
    if not isinstance(current, str) or current not in masters:
        refuse('"current" does not name one of its keys')
    if "retired_at" in keys[current]:
        refuse(f"the current key {current} is retired")
    if not isinstance(admin_token, str) or not (admin_token.isascii() and admin_token.isprintable() and len(admin_token) >= 32):
        refuse('"admin_token" must be at least 32 characters; make one with: openssl rand -base64 33')
    return KeyRing(KeyId(current), masters, admin_token)


def _master_of(text: Any) -> MasterKey:
    if not isinstance(text, str):
        raise ValueError
    try:
        master = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError from None
    if len(master) != 32 or len(set(master)) < 8:  # 32 equal bytes are no key, whatever their form
        raise ValueError
    return MasterKey.of(master)


def _parse_time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else None


# Making and changing key.json


def create(path: Path) -> KeyRing:
    """Write a key file with one new key and a new admin token, readable by its owner only.

    Raises KeyFileRefused if something is there already or the place is not fit.
    """
    if _target(path).is_relative_to(PROJECT):
        raise KeyFileRefused(f"key file {path}: it would be inside the project's folder; choose a place outside")
    name, entry = _new_key(datetime.now(UTC), ())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(path, {"current": name, "keys": {name: entry}, "admin_token": secrets.token_urlsafe(32)})
    except FileExistsError:
        raise KeyFileRefused(f"key file {path}: there is one already; rotate its key with: python server.py keys rotate") from None
    except OSError as error:
        raise KeyFileRefused(f"key file {path}: it cannot be written ({error.strerror})") from None
    return read(path)


def rotate(path: Path, now: datetime) -> KeyId:
    """Add a new key, make it current and mark the old one retired at `now`. A running server picks it up."""
    with _changing(path) as document:
        name, entry = _new_key(now, document["keys"])
        document["keys"][document["current"]]["retired_at"] = _format_time(now)
        document["keys"][name] = entry
        document["current"] = name
    return KeyId(name)


def drop(path: Path, key_id: str, now: datetime) -> None:
    """Remove a key that was retired at least eight days ago. Raises KeyFileRefused if it may still be needed."""
    with _changing(path) as document:
        entry = document["keys"].get(key_id)
        if entry is None:
            raise KeyFileRefused(f"key file {path}: it has no key {key_id}")
        retired_at = _parse_time(entry.get("retired_at"))
        if retired_at is None or now - retired_at < DROP_AFTER:
            raise KeyFileRefused(f"key {key_id} may still be needed: a key can be dropped eight days after it was retired")
        del document["keys"][key_id]


def describe(path: Path) -> list[tuple[str, str]]:
    """Each key id with `current` or the time of its retirement, for the operator."""
    document = _read_document(path)
    _ring_of(path, document)
    return [(name, entry.get("retired_at", "current")) for name, entry in document["keys"].items()]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """Hand out the document of a good key file, and put it in the file's place when the block ends well.

    A lock beside the file keeps two commands from losing one another's key.
    """
    read(path)  # before a lock file is made beside what is refused anyway
    target = _target(path)
    try:
        with open(target.with_name(target.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = _read_document(path)
            _ring_of(path, document)
            yield document
            _ring_of(path, document)
            _replace(target, document)
    except OSError as error:
        raise KeyFileRefused(f"key file {path}: it cannot be changed ({error.strerror})") from None


def _replace(target: Path, document: dict[str, Any]) -> None:
    """Put a new file in the place of `target`, with its owner and mode."""
    fresh = target.with_name(f"{target.name}.{secrets.token_hex(4)}.new")
    status = target.stat()
    try:
        _write_new(fresh, document)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(fresh, status.st_uid, status.st_gid)
        fresh.chmod(stat.S_IMODE(status.st_mode))
        os.replace(fresh, target)
        _sync_folder(target)  # or a power cut takes back a key that has sealed messages since
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _write_new(path: Path, document: dict[str, Any]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _new_key(now: datetime, taken: Any) -> tuple[str, dict[str, str]]:
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    name = now.strftime("%Y-%m-") + "".join(secrets.choice(alphabet) for _ in range(4))
    if name in taken:
        return _new_key(now, taken)
    return name, {"key": Fernet.generate_key().decode()}


def _format_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
