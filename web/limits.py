"""How often a client may do something: creates a minute, sign-ins of the admin. Counted in this process's memory."""

from __future__ import annotations

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from errors import TooManyCreates, TooManySignIns

SIGN_INS_A_MINUTE = 10


class Limits:
    """The limits of one server. A client is an IPv4 address or an IPv6 network of 64 bits, which is one customer's."""

    def __init__(self, creates_a_minute: int) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._creates = RateLimitItemPerMinute(creates_a_minute) if creates_a_minute else None
        self._sign_ins = RateLimitItemPerMinute(SIGN_INS_A_MINUTE)

    def count_create(self, client: str) -> None:
        """Raise LimitReached if the client has created too many messages within a minute."""
        if self._creates:
            self._count(self._creates, "create", client, TooManyCreates)

    def count_sign_in(self, client: str) -> None:
        """Raise LimitReached if the client has tried the admin token too often, right or wrong."""
        self._count(self._sign_ins, "sign-in", client, TooManySignIns)

    def _count(self, item: RateLimitItemPerMinute, what: str, client: str, reached: type[TooManyCreates | TooManySignIns]) -> None:
        name = _network_of(client)
        if not self._limiter.hit(item, what, name):
            wait = self._limiter.get_window_stats(item, what, name).reset_time - time.time()
            seconds = min(60, max(1, math.ceil(wait)))
            raise reached(seconds)


def _network_of(client: str) -> str:
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client)
    except ValueError:
        return client
    if address.ipv4_mapped:  # an IPv4 client, as a socket that listens on :: sees it
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
