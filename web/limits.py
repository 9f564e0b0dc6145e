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
        """Raise TooManyCreates if the client has created too many messages within a minute."""
        if self._creates and not self._limiter.hit(self._creates, "create", _network_of(client)):
            raise TooManyCreates(self._seconds_until(self._creates, "create", client))

    def require_sign_in(self, client: str) -> None:
        """Raise TooManySignIns if the client has shown wrong admin tokens too often: then not even the right one is looked at."""
        if not self._limiter.test(self._sign_ins, "sign-in", _network_of(client)):
            raise TooManySignIns(self._seconds_until(self._sign_ins, "sign-in", client))

    def count_wrong_sign_in(self, client: str) -> None:
        """Remember that the client has shown a wrong admin token."""
        self._limiter.hit(self._sign_ins, "sign-in", _network_of(client))

    def _seconds_until(self, item: RateLimitItemPerMinute, what: str, client: str) -> int:
        wait = self._limiter.get_window_stats(item, what, _network_of(client)).reset_time - time.time()
        return min(60, max(1, math.ceil(wait)))


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
