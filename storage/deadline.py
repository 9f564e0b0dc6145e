"""How long a call to a database may take, and how many one request may make, whatever the other side does.

A timeout for each `recv` bounds nothing: a peer that sends a byte a second keeps it from ever running out. So a call has one
moment at which it ends, and each wait within it is only as long as what is left.
"""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from errors import StoreBusy

CALL_SECONDS = 1.4
"""The longest that a call takes in all: waiting for a connection, connecting, asking, reading the answer."""

BEGIN_SECONDS = 0.5
"""A request that has spent more than this on its calls so far, and on waiting for its turn, begins no other.

So it is answered within two seconds, and a call that it does begin, a claim above all, has its full time.
"""

_call = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Everything that this thread does in here ends within `seconds`, and within what is left if that is less."""
    outer: float | None = getattr(_call, "ends", None)
    ends = time.monotonic() + seconds
    _call.ends = ends if outer is None else min(ends, outer)
    try:
        yield
    finally:
        _call.ends = outer


@contextmanager
def one_request(waited: float) -> Iterator[None]:
    """The calls that this thread makes in here are one request's, which has waited so many seconds for its turn."""
    _call.spent = waited
    try:
        yield
    finally:
        _call.spent = None


@contextmanager
def spending() -> Iterator[None]:
    """A call of this thread's request, if there is one. Raises StoreBusy when it has spent too much to begin another."""
    spent: float | None = getattr(_call, "spent", None)
    if spent is None:
        yield
        return
    if spent > BEGIN_SECONDS:
        raise StoreBusy
    began = time.monotonic()
    try:
        yield
    finally:
        _call.spent = spent + time.monotonic() - began


def seconds_left() -> float:
    """What is left for this thread's call. Raises TimeoutError when that is nothing."""
    ends: float | None = getattr(_call, "ends", None)
    if ends is None:  # closing a connection, outside of any call
        return CALL_SECONDS
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer within the time a call may take")
    return left


def addresses_of(host: str, port: int) -> list[str]:
    """The IP addresses of a host name. Raises OSError, TimeoutError too: a resolver may take longer than a call has."""
    with suppress(socket.gaierror):
        socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        return [host]
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except OSError as error:
            answers.put(error)

    # getaddrinfo cannot be interrupted; the thread ends when the resolver gives up.
    threading.Thread(target=resolve, name="mayfly-resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds_left())
    except queue.Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def has_spoken(descriptor: int) -> bool:
    """Whether an idle connection has something to read: the end of it, or what nobody asked for. Then it serves no more."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
