"""The pages, as bytes. Templates are compiled once a language, escape everything, and know nothing of Flask.

What a person wrote reaches a template only as a value. `verbatim` is for text in `<pre>`: the HTML parser would turn a carriage
return into a line feed and drop the first line feed of a `<pre>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from audit import ACTIONS, OUTCOMES
from keyfile import DROP_AFTER
from records import (
    MAX_LIFETIME_SECONDS,
    MAX_VIEWS,
    NOTICE_TYPES,
    REASONS,
    SCOPES,
    VAULT_NAMES,
    Account,
    Actor,
    ApiKey,
    Certificate,
    Counts,
    Created,
    Delivery,
    Hook,
    Millis,
    Opened,
    Preview,
    Receipt,
    VaultName,
)
from sanitize import MAX_MARKDOWN_BYTES
from web.languages import LANGUAGES, Language
from web.negotiation import Wanted
from web.paths import CREATE
from web.visitor import NOBODY

_HERE = Path(__file__).resolve().parent
LIFETIMES: tuple[tuple[int, Literal["minute", "hour", "day"]], ...] = (
    (300, "minute"),
    (3600, "hour"),
    (24 * 3600, "day"),
    (3 * 24 * 3600, "day"),
    (MAX_LIFETIME_SECONDS, "day"),
)
"""What the page offers: seconds, and the unit to say them in."""
KEY_DAYS = (7, 30, 90, 366)
"""For how many days the page offers to make an API key."""


def _lifetimes(most_seconds: int) -> list[tuple[int, Literal["minute", "hour", "day"]]]:
    """What the page offers where `most_seconds` is the longest."""
    shorter = [(seconds, unit) for seconds, unit in LIFETIMES if seconds < most_seconds]
    return [*shorter, (most_seconds, "day" if most_seconds % 86400 == 0 else "hour" if most_seconds % 3600 == 0 else "minute")]


def _verbatim(text: str) -> Markup:
    return Markup("\n" + str(escape(text)).replace("\r", "&#13;"))


def _version(name: str) -> str:
    return hashlib.sha256((_HERE / "static" / name).read_bytes()).hexdigest()[:12]


_STYLESHEET = f"/static/mayfly.css?v={_version('mayfly.css')}"


@lru_cache
def _environment(language: Language) -> Environment:
    """The templates in one language."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.policies["ext.i18n.trimmed"] = True
    texts = language.texts
    environment.install_gettext_callables(texts.gettext, texts.ngettext, newstyle=True)  # type: ignore[attr-defined]

    @lru_cache(maxsize=256)
    def moment(at: Millis) -> Markup:
        machine = datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Markup('<time datetime="{}">{}</time>').format(machine, language.moment(at))

    @cache
    def say(text: str) -> Markup:
        return Markup(texts.gettext(text)) % {}

    # What Jinja has for `_` looks every text up, wraps and formats it anew: a seventh of a page.
    environment.globals["_"] = say
    environment.filters.update(verbatim=_verbatim, moment=moment, about=language.about, size=language.size)
    environment.globals.update(
        stylesheet=_STYLESHEET,
        all_scopes=SCOPES,
        language=language,
        languages=tuple(LANGUAGES.values()),
        plural_categories=language.plural_categories(),
    )
    # The same in every page that loads scripts, and most of the work of rendering one: rendered once.
    environment.globals["texts"] = Markup(environment.get_template("texts.html").render())
    return environment


def _render(name: str, wanted: Wanted, once: bool = False, **values: Any) -> bytes:
    """`once` marks a page that no address shows again: choosing another language must not lose it."""
    template = _environment(wanted.language).get_template(name)
    return template.render(once=once, lang_query=wanted.lang_query, visitor=wanted.visitor, **values).encode()


def write(
    wanted: Wanted,
    vault: VaultName,
    elsewhere: Sequence[VaultName],
    max_message_bytes: int,
    durability: str,
    most_seconds: int = MAX_LIFETIME_SECONDS,
) -> bytes:
    """The page to write a message for one vault, where it lives `most_seconds` at most, with the way to the others."""
    return _render(
        "write.html",
        wanted,
        vault=vault,
        elsewhere=elsewhere,
        create_paths=CREATE,
        lifetimes=[(seconds, wanted.language.duration(seconds, unit)) for seconds, unit in _lifetimes(most_seconds)],
        max_views=MAX_VIEWS,
        max_message_bytes=max_message_bytes,
        max_markdown_bytes=min(MAX_MARKDOWN_BYTES, max_message_bytes),
        durability=durability,
    )


def created(wanted: Wanted, message: Created, link: str, receipt_link: str) -> bytes:
    """The link was made."""
    return _render("created.html", wanted, once=True, message=message, link=link, receipt_link=receipt_link)


def reveal(
    wanted: Wanted, preview: Preview, idempotency_key: str, lease_seconds: int, max_message_bytes: int, problem: str | None = None
) -> bytes:
    """A message waits to be opened by a deliberate act; `problem` is what was wrong with the last try."""
    return _render(
        "reveal.html",
        wanted,
        preview=preview,
        idempotency_key=idempotency_key,
        lease_seconds=lease_seconds,
        max_message_bytes=max_message_bytes,
        problem=problem,
    )


def message(wanted: Wanted, opened: Opened, lease_seconds: int | None) -> bytes:
    """A message, shown."""
    once = opened.views_left is not None
    record = json.loads(opened.content.message) if opened.content.format == "record" else None
    return _render("message.html", wanted, once, opened=opened, record=record, lease_seconds=lease_seconds)


def receipt(wanted: Wanted, token: str, found: Receipt) -> bytes:
    """The sender's side."""
    return _render("receipt.html", wanted, token=token, receipt=found)


def sign_in(wanted: Wanted, problem: str | None = None) -> bytes:
    """The admin's door."""
    return _render("sign_in.html", wanted, problem=problem)


class Store(NamedTuple):
    """What the admin's page shows of a vault; `counts` None if its database does not answer."""

    vault: VaultName
    durability: Literal["memory", "disk"]
    counts: Counts | None


def admin(wanted: Wanted, stores: Sequence[Store], form_token: str, by_token: bool, done: str | None = None) -> bytes:
    """Counts and the purge; `done` says what the last form did. `by_token`: by the admin token, which has a session of its own."""
    return _render("admin.html", wanted, stores=stores, form_token=form_token, by_token=by_token, done=done)


def error(wanted: Wanted, status: int, title: str, detail: str) -> bytes:
    """What went wrong, and what to do next."""
    return _render("error.html", wanted, status=status, title=title, detail=detail)


def routes(language: Language, groups: Sequence[object], any_request: Mapping[str, str]) -> Markup:
    """The part of `docs` that is the same for everybody. It takes 100 ms."""
    return Markup(_environment(language).get_template("routes.html").render(groups=groups, any_request=any_request))


def docs(wanted: Wanted, routes: Markup) -> bytes:
    """Every route, in groups (`web.description.page`), and what any of them can be refused by."""
    return _render("docs.html", wanted, routes=routes)


# Accounts


class Problem(NamedTuple):
    """Why a form was refused, and beside which of its fields that is said: of the whole form if `field` is none of its own."""

    text: str
    field: str = ""


def account_sign_in(wanted: Wanted, next_: str, problem: str | None = None, done: str | None = None, email: str = "") -> bytes:
    """The door for people with an account; `next_` is where it leads, `email` what was typed before."""
    return _render("account_sign_in.html", replace(wanted, visitor=NOBODY), next=next_, problem=problem, done=done, email=email)


def come_back(wanted: Wanted, path: str) -> bytes:
    """For who followed another site's link: it goes to the same address again."""
    return _render("come_back.html", wanted, path=path)


def own_account(wanted: Wanted, actor: Actor, problem: Problem | None = None, done: str | None = None) -> bytes:
    """Who is signed in, and their password."""
    return _render("own_account.html", wanted, actor=actor, account=actor.account, problem=problem, done=done)


def password(wanted: Wanted, email: str, problem: Problem | None = None) -> bytes:
    """To set a password by a link."""
    return _render("password.html", wanted, email=email, problem=problem)


def accounts(
    wanted: Wanted, found: Sequence[Account], done: str | None = None, problem: Problem | None = None, given: Mapping[str, Any] = {}
) -> bytes:
    """All accounts; `given` is what the form to make one was sent with, if it was refused."""
    return _render("accounts.html", wanted, accounts=found, done=done, problem=problem, given=given)


def account(
    wanted: Wanted,
    found: Account,
    link: str | None = None,
    done: str | None = None,
    problem: Problem | None = None,
    given: Mapping[str, Any] = {},
) -> bytes:
    """One account; `link` is one to set its password that was just made, `given` what the form was sent with if it was refused."""
    values = {
        "email": found.email,
        "first_name": found.first_name,
        "last_name": found.last_name,
        "roles": " ".join(sorted(found.roles)),
    }
    return _render(
        "account.html",
        wanted,
        once=link is not None,
        account=found,
        link=link,
        done=done,
        problem=problem,
        given={**values, **given},
    )


def keys(
    wanted: Wanted,
    found: Sequence[ApiKey],
    actor: Actor,
    now: Millis,
    new: str | None = None,
    done: str | None = None,
    problem: Problem | None = None,
    given: Mapping[str, Any] = {},
) -> bytes:
    """Somebody's API keys; `new` is one that was just made, shown this once."""
    days = [(number * 24 * 3600, wanted.language.duration(number * 24 * 3600, "day")) for number in KEY_DAYS]
    may = [scope for scope in SCOPES if scope in actor.scopes]
    return _render(
        "keys.html",
        wanted,
        once=new is not None,
        keys=found,
        now=now,
        may=may,
        days=days,
        new=new,
        done=done,
        problem=problem,
        given=given,
    )


def keys_in_use(
    wanted: Wanted,
    found: Sequence[tuple[ApiKey, Account]],
    encryption_keys: Sequence[tuple[str, Millis | None]],
    now: Millis,
    done: str | None = None,
) -> bytes:
    """The API keys of all accounts, and the keys of the key file by their ids, each with the time of its retirement."""
    return _render(
        "keys_in_use.html",
        wanted,
        keys=found,
        encryption_keys=encryption_keys,
        now=now,
        drop_after=int(DROP_AFTER.total_seconds() * 1000),
        done=done,
    )


# The audit


def audit(
    wanted: Wanted,
    entries: Sequence[Mapping[str, Any]],
    last: Sequence[Mapping[str, Any]],
    head: str,
    query: Mapping[str, str],
    older: str | None,
    lines: str,
) -> bytes:
    """Entries that an auditor asked for by `query`; `older` and `lines` are where the next ones are, and these as JSON lines."""
    return _render(
        "audit.html",
        wanted,
        entries=entries,
        last=last,
        head=head,
        query=query,
        older=older,
        lines=lines,
        actions=ACTIONS,
        outcomes=OUTCOMES,
        vaults=VAULT_NAMES,
    )


# Certificates


def certificates(
    wanted: Wanted,
    found: Sequence[object],
    query: Mapping[str, str],
    problem: Problem | None = None,
    given: Mapping[str, Any] = {},
    **values: Any,
) -> bytes:
    """Certificates that were chosen by `query`, a form to issue one, and the authority. `values`: see web/certificate_pages.py."""
    return _render("certificates.html", wanted, certificates=found, query=query, problem=problem, given=given, **values)


def own_certificates(wanted: Wanted, found: Sequence[object], may_all: bool) -> bytes:
    """Somebody's own certificates, and how to come by one and install it; `may_all` leads to everybody's."""
    return _render("own_certificates.html", wanted, certificates=found, may_all=may_all)


def certificate(
    wanted: Wanted,
    found: Certificate,
    standing: str,
    handed: Mapping[str, str] | None = None,
    problem: Problem | None = None,
    given: Mapping[str, Any] = {},
    **values: Any,
) -> bytes:
    """One certificate; `handed` is what its key, made just now, is handed over by, shown this once."""
    once = handed is not None
    return _render(
        "certificate.html",
        wanted,
        once,
        certificate=found,
        standing=standing,
        reasons=REASONS,
        handed=handed,
        problem=problem,
        given=given,
        **values,
    )


# Webhooks

_CERTIFICATE_EVENTS, _MESSAGE_EVENTS = (
    " ".join(name for name in NOTICE_TYPES if name.startswith(f"{subject}.")) for subject in ("certificate", "message")
)


def webhooks(
    wanted: Wanted, found: Sequence[Hook], done: str | None = None, problem: Problem | None = None, given: Mapping[str, Any] = {}
) -> bytes:
    """All webhooks; `given` is what the form to register one was sent with, if it was refused."""
    return _render(
        "webhooks.html",
        wanted,
        hooks=found,
        certificate_events=_CERTIFICATE_EVENTS,
        message_events=_MESSAGE_EVENTS,
        done=done,
        problem=problem,
        given=given,
    )


def webhook(
    wanted: Wanted,
    found: Hook,
    deliveries: Sequence[Delivery],
    done: str | None = None,
    secret: str | None = None,
    problem: Problem | None = None,
    given: Mapping[str, Any] = {},
) -> bytes:
    """One webhook, and what it was told; `secret` is shown this once, `given` what the form was sent with if it was refused."""
    events = " ".join(name for name in NOTICE_TYPES if name in found.events)
    return _render(
        "webhook.html",
        wanted,
        once=secret is not None,
        hook=found,
        deliveries=deliveries,
        certificate_events=_CERTIFICATE_EVENTS,
        message_events=_MESSAGE_EVENTS,
        done=done,
        secret=secret,
        problem=problem,
        given={"url": found.url, "events": events, **given},
    )
