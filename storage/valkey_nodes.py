"""How the Valkey store reaches its servers: a bounded pool of sessions to each of them, the map of a Cluster.

A command is sent once. It is sent again only where the server said that it did not run: MOVED, ASK, TRYAGAIN, READONLY, NOSCRIPT.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from errors import StartRefused, StoreFailed, StoreFull
from records import CIRCUITS, Circuit
from storage.address import Address, Tls
from storage.breaker import Breaker
from storage.deadline import CALL_SECONDS, seconds_left, within
from storage.valkey_scripts import Script
from storage.valkey_session import Command, Endpoint, Session, Value

SHARDS = 256
SESSIONS = 32
"""How many sessions a process keeps to one server: more than it has threads for requests."""

_REDIRECTIONS = 5
_PAUSE_SECONDS = 0.02  # before asking again where a slot is just being moved
_OLDEST = (7, 0)  # the first with flags for scripts
_LEAST_SECONDS = 0.05
_COMPLAINT_SECONDS = 60.0
_MAP_SECONDS = 0.2
"""How long a map of a Cluster is believed, although something speaks against it."""

_log = logging.getLogger("mayfly.storage")

_Answer = TypeVar("_Answer")


class Unreachable(StoreFailed):
    """Nothing listens, or it does not answer in time. Whatever else keeps a session from being made refuses the start."""


class Node:
    """One server, and the sessions to it that this process keeps. `durable`: what it acknowledged stands on its disk."""

    def __init__(self, endpoint: Endpoint, address: Address) -> None:
        self.endpoint = endpoint
        self.durable = False
        self._name = str(address.socket or f"{endpoint.host}:{endpoint.port}")
        self._breaker = Breaker(self._name)
        self._address = address
        self._idle: list[Session] = []
        self._free = threading.BoundedSemaphore(SESSIONS)
        self._proven = address.tls is None or address.tls.certificate is None
        self._closed = False
        self._complaint, self._complained_at = "", 0.0

    @property
    def circuit(self) -> Circuit:
        return self._breaker.state

    def greet(self) -> None:
        """Make a first session. Raises Unreachable, StartRefused."""
        try:
            with within(CALL_SECONDS), self._session():
                pass
        except Unreachable:
            with within(CALL_SECONDS):
                if self._address.tls and self._answers_to(None):
                    raise self._refusal("it does not speak TLS") from None
            raise

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send `commands` in one go; refusals of the server stand among the answers. Raises StoreFailed for all other faults."""
        if seconds_left() < _LEAST_SECONDS:  # others took the time: that says nothing about this server
            raise StoreFailed
        try:
            with self._breaker.call() as seconds, within(seconds), self._session() as session:
                return session.ask(commands)
        except StartRefused as refusal:
            self.complain(str(refusal).removeprefix(f"the store at {self._name} "))
            raise StoreFailed from None
        except (RedisError, OSError) as error:
            raise StoreFailed from error

    def complain(self, what: str) -> None:
        """Tell the operator, but not with every call."""
        if what != self._complaint or time.monotonic() > self._complained_at + _COMPLAINT_SECONDS:
            self._complaint, self._complained_at = what, time.monotonic()
            _log.error("the store at %s %s", self._name, what)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().end()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """A session that is whole: one on which anything went wrong is closed, or a late answer would be taken for the next."""
        if self._closed or not self._free.acquire(timeout=seconds_left()):
            raise StoreFailed
        try:
            session = self._idle_session() or self._new_session()
            try:
                yield session
            except BaseException:
                session.end()
                raise
            if self._closed:
                session.end()
            else:
                self._idle.append(session)
        finally:
            self._free.release()

    def _idle_session(self) -> Session | None:
        while self._idle:
            try:
                session = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not session.is_over():
                return session
            session.end()
        return None

    def _new_session(self) -> Session:
        session = Session(self.endpoint, self._address, self._address.tls)
        try:
            session.open()
            self._require_fit(session)
            if not self._proven:
                self._require_certificates()
                self._proven = True
        except (RedisError, OSError) as error:
            session.end()
            if not session.reached or _is_passing(error):
                raise Unreachable from error
            raise self._refusal(_why(error)) from None
        except BaseException:
            session.end()
            raise
        return session

    def _require_fit(self, session: Session) -> None:
        """Refuse a server that would not keep what it acknowledges. Looked at in every session: servers change while we run."""
        info, config = session.ask([("INFO",), ("CONFIG", "GET", "append*", "save", "no-appendfsync-on-rewrite")])
        if isinstance(info, ResponseError):
            raise self._refusal(f"the user may not use INFO ({info})")
        told = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        clustered = self._address.engine == "valkey+cluster"
        if tuple(map(int, told["redis_version"].split(".")[:2])) < _OLDEST:
            raise self._refusal(f"it is version {told['redis_version']}, and Mayfly needs Valkey, or Redis 7.0 or later")
        if told["loading"] == "1":
            raise BusyLoadingError
        if told["maxmemory_policy"] != "noeviction":
            raise self._refusal(
                f"it drops messages when its memory is full (maxmemory-policy {told['maxmemory_policy']}): set it to noeviction"
            )
        if (told["cluster_enabled"] == "1") != clustered:
            raise self._refusal(f"it is {'no' if clustered else 'a'} Cluster: write valkey{'' if clustered else '+cluster'}://")
        if told["role"] != "master" and not clustered:
            raise self._refusal("it is a replica: name its primary")
        # Where CONFIG is not allowed nobody can tell.
        kept = {} if isinstance(config, ResponseError) else dict(zip(config[::2], config[1::2], strict=True))
        if kept.get(b"save") and kept.get(b"appendonly") == b"no":
            raise self._refusal(
                "after a crash it goes back to its last snapshot, and what was opened since opens again: "
                'set save "" (it keeps nothing) or appendonly yes'
            )
        self.durable = kept.get(b"appendonly") == b"yes" and (
            (kept[b"appendfsync"], kept[b"no-appendfsync-on-rewrite"]) == (b"always", b"no")
        )

    def _require_certificates(self) -> None:
        """Refuse a server that takes clients without a certificate: then it is not mutual TLS, whatever we show."""
        assert self._address.tls
        if self._answers_to(Tls(self._address.tls.ca)):
            raise self._refusal("it takes clients without a certificate: set tls-auth-clients yes")

    def _answers_to(self, tls: Tls | None) -> bool:
        """Whether the server answers somebody who comes by `tls`, or plainly, and shows neither certificate nor password."""
        bare = Session(self.endpoint, replace(self._address, user=None, password=None, database="0"), tls)
        try:
            bare.open()
            bare.ask([("PING",)])
        except (AuthenticationError, BusyLoadingError):
            return True
        except (RedisError, OSError) as error:
            if tls and (not bare.reached or _is_passing(error)):
                raise
            return False
        finally:
            bare.end()
        return True

    def _refusal(self, why: str) -> StartRefused:
        return StartRefused(f"the store at {self._name} cannot be used: {why}")


def _is_passing(error: Exception) -> bool:
    """Whether a fault, although something listens, says nothing about how it is set: it is slow, or still loading its data."""
    return isinstance(error, (TimeoutError, RedisTimeoutError, BusyLoadingError))


def _why(error: Exception) -> str:
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails ({cause.reason})"
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return f"it refuses user or password ({error})"
    if isinstance(error, ResponseError):
        return str(error)
    return "it ends the connection at once: does it demand TLS, or a client certificate that it knows?"


class Nodes:
    """The servers of a store: one, or the primaries of a Cluster, each for its share of the shards."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._seed = Endpoint(address.host, address.port)
        self._clustered = address.engine == "valkey+cluster"
        self._nodes: dict[Endpoint, Node] = {}
        self._owners: list[Endpoint | None] = [None if self._clustered else self._seed] * SHARDS
        self._informant = self._seed
        self._mapping = threading.Lock()
        self._map_is_old = self._clustered
        self._mapped_at = -_MAP_SECONDS

    def greet(self) -> None:
        """Make a first session with every server. Raises StartRefused; Unreachable if any is, after all others were greeted."""
        self._node(self._seed).greet()
        if self._clustered:
            self._draw_map()
        unreachable: Unreachable | None = None
        for endpoint in self._primaries():
            try:
                self._node(endpoint).greet()
            except Unreachable as error:
                unreachable = error
        if unreachable:
            raise unreachable

    @property
    def durable(self) -> bool:
        return all(self._node(endpoint).durable for endpoint in self._primaries())

    @property
    def circuit(self) -> Circuit:
        """The worst of them."""
        return max((self._node(endpoint).circuit for endpoint in self._primaries()), key=CIRCUITS.index, default="closed")

    def run(self, script: Script, shard: int, keys: Sequence[bytes], *values: Value) -> Any:
        """Run a script where the keys of `shard` are, and return its answer.

        Raises StoreFailed; StoreFull if the server has no memory left for it, and then it did not run.
        """
        with one_call():
            return self._run(script, shard, keys, values)

    def run_on_all(self, script: Script, keys_of: Callable[[int], Sequence[bytes]], *values: Value) -> dict[int, Any]:
        """Run a script on every shard that can be reached and return the answers."""

        def ask(node: Node, shards: list[int]) -> dict[int, Any]:
            answers = node.ask([_call(script, keys_of(shard), values) for shard in shards])
            return {
                # Moved, or the script is not known: it did not run.
                shard: self._run(script, shard, keys_of(shard), values) if isinstance(answer, ResponseError) else answer
                for shard, answer in zip(shards, answers, strict=True)
            }

        with one_call():
            return {shard: answer for part in self._each(ask) for shard, answer in part.items()}

    def ask_each(self, *command: Value) -> list[Any]:
        """The answer of every server that can be reached and does not refuse."""
        with one_call():
            answers = list(self._each(lambda node, _: node.ask([command])[0]))
        return [answer for answer in answers if not isinstance(answer, ResponseError)]

    def ask_any(self, command_for: Callable[[int], Command]) -> Any:
        """The answer of the first server that has one, to a command about a shard of its own. Raises StoreFailed if none does."""
        with one_call():
            for answer in self._each(lambda node, shards: node.ask([command_for(shards[0])])[0]):
                if not isinstance(answer, ResponseError):
                    return answer
        raise StoreFailed

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def _run(self, script: Script, shard: int, keys: Sequence[bytes], values: Sequence[Value]) -> Any:
        command = _call(script, keys, values)
        asking: Endpoint | None = None
        for _ in range(_REDIRECTIONS):
            node = self._node(asking or self._owner(shard))
            try:
                answer = node.ask([("ASKING",), command] if asking else [command])[-1]
            except StoreFailed:
                self._map_is_old = self._clustered
                raise
            asking = None
            if not isinstance(answer, ResponseError):
                return answer
            if isinstance(answer, NoScriptError):
                command = ("EVAL", script.text, *command[2:])
            elif isinstance(answer, MovedError):
                self._owners[shard] = _redirected(answer, node)
                self._map_is_old = True
            elif isinstance(answer, AskError):
                asking = _redirected(answer, node)
            elif isinstance(answer, (TryAgainError, ReadOnlyError)):
                self._map_is_old = self._clustered
                time.sleep(min(_PAUSE_SECONDS, seconds_left()))
            elif isinstance(answer, OutOfMemoryError):
                raise StoreFull
            else:
                node.complain(f"refuses: {answer}")
                raise StoreFailed
        raise StoreFailed

    def _each(self, ask: Callable[[Node, list[int]], _Answer]) -> Iterator[_Answer]:
        """What each server answers about its shards; those that fail are left out.

        Each has its share of the time that is left: one that hangs takes none from the others.
        """
        self._draw_map()
        primaries = self._primaries()
        for number, endpoint in enumerate(primaries):
            shards = [shard for shard, owner in enumerate(self._owners) if owner == endpoint]
            try:
                with within(seconds_left() / (len(primaries) - number)):
                    answer = ask(self._node(endpoint), shards)
            except (StoreFailed, TimeoutError):
                self._map_is_old = self._clustered
                continue
            yield answer

    def _node(self, endpoint: Endpoint) -> Node:
        return self._nodes.get(endpoint) or self._nodes.setdefault(endpoint, Node(endpoint, self._address))

    def _owner(self, shard: int) -> Endpoint:
        self._draw_map()
        owner = self._owners[shard]
        if owner is None:
            self._map_is_old = True
            raise StoreFailed
        return owner

    def _primaries(self) -> list[Endpoint]:
        return sorted({owner for owner in self._owners if owner})

    def _draw_map(self) -> None:
        """Ask who owns which shard, if there is reason to: whoever answered last, then the others, then the server of the URL."""
        if not self._map_is_old or time.monotonic() < self._mapped_at + _MAP_SECONDS:
            return
        # Whoever comes while another thread asks goes by the old map, if there is one.
        if not self._mapping.acquire(timeout=0 if any(self._owners) else seconds_left()):
            return
        try:
            self._mapped_at = time.monotonic()
            for endpoint in dict.fromkeys([self._informant, *self._primaries(), self._seed]):
                try:
                    with within(seconds_left() / 3):
                        ranges = self._node(endpoint).ask([("CLUSTER", "SLOTS")])[0]
                except StoreFailed:
                    continue
                if not isinstance(ranges, ResponseError):
                    self._owners = _owners(ranges, endpoint)
                    self._informant = endpoint
                    self._map_is_old = False
                    return
        finally:
            self._mapping.release()


@contextmanager
def one_call() -> Iterator[None]:
    """What is done in here, of whatever steps, is one call of the store: it ends in time, with StoreFailed if need be."""
    try:
        with within(CALL_SECONDS):
            yield
    except TimeoutError as error:
        raise StoreFailed from error


def _call(script: Script, keys: Sequence[bytes], values: Sequence[Value]) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *values)


def _redirected(to: AskError, by: Node) -> Endpoint:
    """Where a server sends us; one that does not know its own name means that its host is the same."""
    return Endpoint(to.host or by.endpoint.host, to.port)


_SHARD_OF_SLOT = {key_slot(b"%02x" % shard): shard for shard in range(SHARDS)}
assert len(_SHARD_OF_SLOT) == SHARDS


def _owners(ranges: list[Any], informant: Endpoint) -> list[Endpoint | None]:
    """The owner of each shard, by the answer to CLUSTER SLOTS; None for those that nobody has."""
    owners: list[Endpoint | None] = [None] * SHARDS
    for first, last, primary, *_ in ranges:
        endpoint = Endpoint(primary[0].decode() if primary[0] else informant.host, primary[1])
        for slot, shard in _SHARD_OF_SLOT.items():
            if first <= slot <= last:
                owners[shard] = endpoint
    return owners
