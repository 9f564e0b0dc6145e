"""How often a client may do something: creates a minute, tries to sign in. Counted in this process's memory."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from errors import TooManyCreates, TooManySignIns

SIGN_INS_A_MINUTE = 10
"""Wrong tries of one client."""
TRIES_OF_AN_ADDRESS_A_MINUTE = 100
"""Wrong passwords for one e-mail address, wherever from. Far more than one client has, which must not keep its owner out."""
RESETS_A_MINUTE = 10
"""Askings for a new password by one client."""


class Limits:
    """The limits of one server. A client is an IPv4 address or an IPv6 network of 64 bits, which is one customer's."""

    def __init__(self, creates_a_minute: int) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._creates = RateLimitItemPerMinute(creates_a_minute) if creates_a_minute else None
        self._sign_ins = RateLimitItemPerMinute(SIGN_INS_A_MINUTE)
        self._of_address = RateLimitItemPerMinute(TRIES_OF_AN_ADDRESS_A_MINUTE)
        self._resets = RateLimitItemPerMinute(RESETS_A_MINUTE)

    def count_create(self, client: str) -> None:
        """Raise TooManyCreates if the client has created too many messages within a minute."""
        if self._creates and not self._limiter.hit(self._creates, "create", _network_of(client)):
            raise TooManyCreates(self._seconds_until(self._creates, "create", _network_of(client)))

    def require_sign_in(self, client: str) -> None:
        """Raise TooManySignIns if the client has shown wrong things too often: then not even the right one is looked at."""
        if not self._limiter.test(self._sign_ins, "sign-in", _network_of(client)):
            raise TooManySignIns(self._seconds_until(self._sign_ins, "sign-in", _network_of(client)))

    def count_wrong_sign_in(self, client: str) -> None:
        """Remember that the client has shown a wrong admin token, password or key."""
        self._limiter.hit(self._sign_ins, "sign-in", _network_of(client))

    def require_email(self, email: str) -> None:
        """Raise TooManySignIns if there were too many wrong tries with an e-mail address, wherever from, and whoever's it is."""
        if not self._limiter.test(self._of_address, "e-mail", _known_by(email)):
            raise TooManySignIns(self._seconds_until(self._of_address, "e-mail", _known_by(email)))

    def count_wrong_email(self, email: str) -> None:
        """Remember that somebody tried an e-mail address with a wrong password."""
        self._limiter.hit(self._of_address, "e-mail", _known_by(email))

    def count_reset(self, client: str) -> None:
        """Raise TooManySignIns if the client has asked for new passwords too often within a minute."""
        if not self._limiter.hit(self._resets, "reset", _network_of(client)):
            raise TooManySignIns(self._seconds_until(self._resets, "reset", _network_of(client)))

    def _seconds_until(self, item: RateLimitItemPerMinute, what: str, whose: str) -> int:
        wait = self._limiter.get_window_stats(item, what, whose).reset_time - time.time()
        return min(60, max(1, math.ceil(wait)))


def _known_by(email: str) -> str:
    """What an e-mail address is counted by, however long it is."""
    return hashlib.sha256(email.lower().encode(errors="replace")).hexdigest()


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
