"""One table from error to HTTP status, and one way to tell an error in HTML, JSON (RFC 9457) and text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import errors
from drafts import DOCUMENT_FIELDS, FIELDS, GUARDED_FIELDS
from errors import LimitReached, MayflyError, MethodRefused, Unavailable, WrongPassphrase
from web import pages
from web.answers import HTML, TEXT, Answer, waiting
from web.languages import N_
from web.negotiation import Wanted, wanted_by

PROBLEM_JSON = "application/problem+json"
REASON = "mayfly.reason"
"""Where in environ the name of the error's class stands with which a request is answered, for log and metrics."""

# The first row whose class fits.
TABLE: tuple[tuple[type[MayflyError], int, str], ...] = (
    (errors.FieldRefused, 400, N_("A field is not right")),
    (errors.BodyRefused, 400, N_("The request is not right")),
    (errors.LengthRequired, 411, N_("A length is needed")),
    (errors.BodyTooLarge, 413, N_("That is too large")),
    (errors.BodyTooSlow, 408, N_("That took too long")),
    (errors.UnsupportedBody, 415, N_("That kind of content is not taken")),
    (errors.UnknownHost, 400, N_("Another host")),
    (errors.PrefetchRefused, 403, N_("Not ahead of time")),
    (errors.NotFound, 404, N_("Nothing here")),
    (errors.NothingThere, 404, N_("Nothing here")),
    (errors.OpeningRequired, 405, N_("Waiting to be opened")),
    (errors.MethodRefused, 405, N_("Not that way")),
    (errors.TickRequired, 400, N_("Not opened")),
    (errors.PassphraseRequired, 403, N_("A passphrase is needed")),
    (errors.ProofRequired, 403, N_("The whole link is needed")),
    (errors.WrongPassphrase, 403, N_("Wrong passphrase")),
    (errors.NotSignedIn, 401, N_("Not signed in")),
    (errors.MetricsTokenRequired, 401, N_("Not signed in")),
    (errors.AccountRequired, 401, N_("Not signed in")),
    (errors.WrongCredentials, 401, N_("Not signed in")),
    (errors.ScopeRequired, 403, N_("Not for you")),
    (errors.CertificateRequired, 403, N_("A certificate is needed")),
    (errors.SecureRequired, 403, N_("Not over http")),
    (errors.Taken, 409, N_("Taken")),
    (errors.LastAdmin, 409, N_("The last admin")),
    (errors.NoAuthority, 409, N_("No authority")),
    (errors.WrongState, 409, N_("Not as it is now")),
    (errors.ForgedRequest, 403, N_("Not from this page")),
    (errors.LimitReached, 429, N_("Too often")),
    (errors.Damaged, 500, N_("Damaged")),
    (errors.Unavailable, 503, N_("Not at the moment")),
)

# Any other name may be a piece of a message whose form was not encoded.
_TELLABLE_FIELDS = FIELDS | DOCUMENT_FIELDS | GUARDED_FIELDS | {"open", "idempotency_key", "Idempotency-Key", "link"}

_ON_FORM: dict[type[MayflyError], tuple[str, str]] = {
    errors.Taken: ("email", N_("There is an account with that e-mail address already.")),
    errors.WrongCredentials: ("old", N_("That is not the password you have.")),
}
"""Beside which field it is said on a form, and how."""
_LABELS = {
    "email": N_("E-mail address"),
    "first_name": N_("First name"),
    "last_name": N_("Last name"),
    "roles": N_("Roles"),
    "name": N_("What it is for"),
}
"""What the fields of forms are called there."""


class Unexpected(Unavailable):
    """A fault in Mayfly itself. What happened stands in the log, never in the answer."""

    def __init__(self) -> None:
        super().__init__("Something went wrong on the server. It has been logged; try again shortly.")


def status_of(error: MayflyError) -> tuple[int, str]:
    """The status and title of an error."""
    if isinstance(error, Unexpected):
        return 500, N_("A fault of ours")
    return next((status, title) for kind, status, title in TABLE if isinstance(error, kind))


def reason_of(error: MayflyError) -> str:
    """What log and metrics call an error: the name of its class, or of the one in `errors` that a room made its own of."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ in (errors.__name__, __name__))


def answer(error: MayflyError, wanted: Wanted) -> Answer:
    """The error as the client wants to have it told, with the headers it carries. Only pages are translated."""
    status, title = status_of(error)
    detail = str(error)
    headers = _headers(error, status)
    if wanted.kind == "html":
        language = wanted.language
        page = pages.error(wanted, status, language.say(title), language.say(error.text, **error.values))
        return Answer(status, HTML, page, headers)
    if wanted.kind == "text":
        return Answer(status, TEXT, f"{detail}\n".encode(), headers)
    problem: dict[str, object] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if isinstance(error, WrongPassphrase):
        problem["tries_left"] = error.tries_left
    if isinstance(error, errors.OpeningRequired):
        problem |= waiting(error.preview)
    if isinstance(error, errors.FieldRefused) and error.field in _TELLABLE_FIELDS:
        problem["field"] = error.field
    return Answer(status, PROBLEM_JSON, json.dumps(problem).encode(), headers)


def answer_on_form(refusal: MayflyError, environ: dict[str, Any], page: Callable[[pages.Problem], bytes]) -> Answer:
    """The error on the page of the form that was refused: beside its field, in the words of the form."""
    environ[REASON] = reason_of(refusal)
    wanted = wanted_by(environ)
    field, text = _ON_FORM.get(type(refusal), ("", refusal.text))
    if isinstance(refusal, errors.FieldRefused):
        field = refusal.field
    values = refusal.values | ({"name": wanted.language.say(_LABELS[field])} if field in _LABELS else {})
    problem = pages.Problem(wanted.language.say(text, **values), field)
    return replace(answer(refusal, wanted), body=page(problem))


def _headers(error: MayflyError, status: int) -> tuple[tuple[str, str], ...]:
    if isinstance(error, MethodRefused):
        return (("Allow", error.allow),)
    if isinstance(error, (LimitReached, Unavailable)):
        return (("Retry-After", str(error.retry_after)),)
    if status == 401:
        return (("WWW-Authenticate", 'Bearer realm="mayfly"'),)
    return ()
