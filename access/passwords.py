"""Passwords: what is taken for one, and checking one without telling whether there is an account.

At least 15 characters, of any kind and in any mixture, as NIST SP 800-63B-4 section 3.1.1.2 demands where there is no second
factor. Of what it wants refused as expected (lists of common passwords have hardly one of that length) there is what somebody
types who only wants to be let through: the e-mail address, this server's name, few different characters.
"""

from __future__ import annotations

import os
import unicodedata

import crypto
from errors import FieldRefused, PassphraseMismatch
from records import Account

MIN_CHARACTERS = 15
MAX_BYTES = 1024
_LEAST_DIFFERENT = 6


def require_good(field: str, password: object, email: str = "") -> str:
    """Return what may become the password of the account with that address. Raises FieldRefused."""
    if not isinstance(password, str) or any("\ud800" <= letter <= "\udfff" for letter in password):
        raise FieldRefused(field, "%(name)s must be text.", name=field)
    text = unicodedata.normalize("NFC", password)
    if len(text) < MIN_CHARACTERS or len(text.encode()) > MAX_BYTES:
        raise FieldRefused(
            field,
            "A password has at least %(least)s characters, and at most %(most)s bytes. A few words of a sentence do well.",
            least=MIN_CHARACTERS,
            most=MAX_BYTES,
        )
    plain = text.lower()
    for known in (email, email.partition("@")[0], "mayfly", "password"):
        plain = plain.replace(known, "") if len(known) > 2 else plain
    if len(set(plain)) < _LEAST_DIFFERENT:
        raise FieldRefused(
            field, "That password is easily guessed: take one that is not made of your address or of few characters."
        )
    return text


class Passwords:
    """Checks passwords, whether there is an account or not, by the same work."""

    def __init__(self) -> None:
        self._nobodys: str | None = None

    def check(self, account: Account | None, password: str) -> bool:
        """Whether it is the password of the account. Without one, or without a password, it is nobody's. Raises Unavailable.

        Derived each time: a hash made here stands for that of an account that is not there. Also for one that is disabled, so that
        only the right password could tell, and it does not.
        """
        stored = account.password if account else None
        if len(password.encode(errors="replace")) > MAX_BYTES:
            password = ""
        try:
            crypto.check_password(stored or self._nobody(), password.encode(errors="replace").decode())
        except PassphraseMismatch:
            return False
        return stored is not None and account is not None and account.enabled

    def _nobody(self) -> str:
        """The hash of a password that nobody knows."""
        if self._nobodys is None:
            self._nobodys = crypto.password_hash(os.urandom(32).hex())
        return self._nobodys
