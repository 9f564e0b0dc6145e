"""Cookies, and whether a request that carries one came from a page of ours."""

from __future__ import annotations

from werkzeug.http import dump_cookie
from werkzeug.sansio.http import parse_cookie

from errors import ForgedRequest
from web.gate import Environ, own_origin

_SAFE = ("GET", "HEAD", "OPTIONS")


def read_cookie(environ: Environ, names: tuple[str, str], secure: bool) -> str:
    """The value of a cookie; empty if there is none."""
    return parse_cookie(environ.get("HTTP_COOKIE", "")).get(names[secure], "")


def cookie(names: tuple[str, str], value: str, seconds: int, secure: bool) -> tuple[str, str]:
    """The header that sets a cookie for this host alone; with 0 seconds, one that removes it.

    No script sees it, and no other site's request carries it (SameSite=Strict). `secure` is whether browsers reach this server by
    https: then it goes by https only, and no other host can have set it (`__Host-`, RFC 6265bis section 4.1.3.2).
    """
    text = dump_cookie(names[secure], value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="Strict")
    return "Set-Cookie", text


def require_own_page(environ: Environ, public_url: str | None) -> None:
    """Raise ForgedRequest for an unsafe request that another site sent. Both headers are set by the browser, not by the page.

    Under our `Referrer-Policy: no-referrer` browsers send `Origin: null` with our own forms too (Fetch, "append a request Origin
    header"): then Sec-Fetch-Site alone tells them from others'.
    """
    if environ["REQUEST_METHOD"] in _SAFE:
        return
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    own = {None, own_origin(environ), public_url} | ({"null"} if site is not None else set())
    if site not in (None, "same-origin", "none") or origin not in own:
        raise ForgedRequest
