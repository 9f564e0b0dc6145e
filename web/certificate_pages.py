"""Certificates in a browser: what `web/certificates.py` answers to programs, as pages, and the forms on them. No Flask here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from access.certificates import DAY, WARNING_DAYS
from errors import FieldRefused, NoAuthority, ScopeRequired, WrongState
from fields import Choice, Field, Line, Model
from records import REASONS, SECOND, AccountId, Actor, Certificate, CertificateState, Issuer, Millis
from web import pages
from web.answers import HTML, Answer, as_json
from web.authentication import actor_of
from web.bodies import Fields, read_query
from web.certificates import FOLLOWER, NEW_CERTIFICATE, CertificatePages, certificate_document
from web.errors import answer_on_form
from web.gate import Environ
from web.handlers import body_of
from web.languages import N_
from web.negotiation import wanted_by

STANDINGS = ("active", "ending", "followed", "inactive", "revoked", "ended")
"""What is said of a certificate on pages: its state, and what time and a follower make of it."""
IN_USE = frozenset(("active", "ending", "followed", "inactive"))
MOST_SHOWN = 200
"""How many certificates a page lists: with more it asks to choose."""
_ISSUER_ENDS = 180 * DAY

_PAGE_LOOK = Model(
    Field("account", Line(254), "Those of one account, by its id or e-mail address."),
    Field("state", Choice((*STANDINGS, "all")), "Those that stand so."),
)
CERTIFICATE_ACT = Model(
    Field("do", Choice(("activate", "deactivate", "revoke")), "What is to be done.", required=True),
    Field("reason", Choice(REASONS), "Why it is revoked."),
)
_BECOMES: dict[str, CertificateState] = {"activate": "active", "deactivate": "inactive", "revoke": "revoked"}
_DONE = {
    "issued": N_("The certificate was issued."),
    "followed": N_("The certificate that follows was issued."),
    "activate": N_("It is active again, from this moment on."),
    "deactivate": N_("It is deactivated: the next request that shows it is refused."),
    "revoke": N_("It was revoked, for good."),
}
"""What a page says once it is done."""


class Shown(NamedTuple):
    """A certificate, and how it stands at this moment."""

    certificate: Certificate
    standing: str


class Authority(NamedTuple):
    """Who issues, as pages show it; `soon` if another one should be made by now."""

    id: str
    name: str
    root: str
    expires_at: Millis
    root_expires_at: Millis
    soon: bool
    is_over: bool


class CertificateForms(CertificatePages):
    """The same handlers, which answer browsers by pages."""

    def certificates(self, environ: Environ) -> Answer:
        """`GET /certificates`"""
        if wanted_by(environ).kind != "html":
            return super().certificates(environ)
        return Answer(200, HTML, self._list(environ))

    def add_certificate(self, environ: Environ) -> Answer:
        """`POST /certificates`"""
        if wanted_by(environ).kind != "html":
            return super().add_certificate(environ)
        given = dict(body_of(environ).fields)
        try:
            values = NEW_CERTIFICATE.read(given)
            account = self._account_of(values["account"])
            if account is None:
                raise FieldRefused("account", "There is no account with that e-mail address.")
            actor = actor_of(environ)
            if values["csr"]:
                made, handed = self._certificates.add(actor, account, values["csr"]), None
            else:
                made, handover = self._certificates.make(actor, account)
                handed = self._handover(environ, handover)
        except (FieldRefused, NoAuthority, WrongState) as refusal:
            return answer_on_form(refusal, environ, lambda problem: self._list(environ, problem, _texts_of(given)))
        return Answer(201, HTML, self._page(environ, made, "issued", handed))

    def certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`GET /certificates/<certificate_id>`"""
        if wanted_by(environ).kind != "html":
            return super().certificate(environ, certificate_id)
        return Answer(200, HTML, self._page(environ, self._certificates.get(actor_of(environ), certificate_id)))

    def act_on_certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`POST /certificates/<certificate_id>`, for forms, which do not know PATCH: `do` says what."""
        values = CERTIFICATE_ACT.read(body_of(environ).fields)
        do, reason, actor = values["do"], values["reason"], actor_of(environ)

        def act() -> Certificate:
            return self._certificates.set_state(actor, certificate_id, _BECOMES[do], reason)

        if wanted_by(environ).kind != "html":
            return as_json(200, certificate_document(act()))
        return self._on_page(environ, certificate_id, {}, lambda: Answer(200, HTML, self._page(environ, act(), do)))

    def renew_certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`POST /certificates/<certificate_id>/renew`"""
        if wanted_by(environ).kind != "html":
            return super().renew_certificate(environ, certificate_id)
        given = body_of(environ).fields

        def renew() -> Answer:
            values = FOLLOWER.read(given)
            made = self._certificates.renew(actor_of(environ), certificate_id, values["csr"], values["overlap_days"])
            return Answer(201, HTML, self._page(environ, made, "followed"))

        return self._on_page(environ, certificate_id, given, renew)

    def _on_page(self, environ: Environ, certificate_id: str, given: Fields, act: Callable[[], Answer]) -> Answer:
        """What `act` answers, or why it was refused, on the page of the certificate."""
        found = self._certificates.get(actor_of(environ), certificate_id)
        try:
            return act()
        except (FieldRefused, NoAuthority, WrongState) as refusal:
            return answer_on_form(
                refusal, environ, lambda problem: self._page(environ, found, problem=problem, given=_texts_of(given))
            )

    # Pages

    def _list(self, environ: Environ, problem: pages.Problem | None = None, given: dict[str, str] | None = None) -> bytes:
        """All certificates, for whoever looks after them; for anybody else, and if they ask for these, their own."""
        actor, wanted = actor_of(environ), wanted_by(environ)
        query = {} if problem else _PAGE_LOOK.read(read_query(environ.get("QUERY_STRING", "")))
        asked, state = query.get("account"), query.get("state")
        account = self._account_of(asked) if asked else None
        is_own = actor.account is not None and account == actor.account.id
        if not _may_all(actor) or is_own:
            if asked and not is_own:
                raise ScopeRequired
            assert actor.account
            own = self._shown(self._certificates.all(actor, actor.account.id))
            return pages.own_certificates(wanted, own, may_all=_may_all(actor))
        every = self._shown(self._certificates.all(actor, account) if account or not asked else [])
        chosen = [one for one in every if state == "all" or (one.standing == state if state else one.standing in IN_USE)]
        return pages.certificates(
            wanted,
            chosen[:MOST_SHOWN],
            more=len(chosen[MOST_SHOWN:]),
            ending=sum(one.standing == "ending" for one in every),
            active=sum(one.certificate.state == "active" and one.standing != "ended" for one in every),
            authorities=[self._authority(issuer) for issuer in self._certificates.store.issuers()],
            hands_over=self._certificates.vault is not None,
            own=actor.account.id if actor.account else None,
            query={"account": self._email_of(account) or asked or "", "state": state or ""},
            problem=problem,
            given=given or {"account": self._email_of(account)},
        )

    def _page(
        self,
        environ: Environ,
        found: Certificate,
        done: str | None = None,
        handed: dict[str, Any] | None = None,
        problem: pages.Problem | None = None,
        given: dict[str, str] | None = None,
    ) -> bytes:
        actor, wanted = actor_of(environ), wanted_by(environ)
        others = self._certificates.store.certificates(found.account)
        follower = next((one for one in others if one.replaces == found.id), None)
        return pages.certificate(
            wanted,
            *self._shown([found])[0],
            follower=follower,
            may_all=_may_all(actor),
            is_own=actor.account is not None and actor.account.id == found.account,
            done=done and wanted.language.say(_DONE[done]),
            is_new=done in ("issued", "followed"),
            handed=handed,
            problem=problem,
            given=given or {},
        )

    def _shown(self, found: list[Certificate]) -> list[Shown]:
        now = self._certificates.store.now()
        return [Shown(one, standing_of(one, now)) for one in found]

    def _authority(self, issuer: Issuer) -> Authority:
        chain, now = self._certificates.authority.chain_of(issuer), self._certificates.store.now()
        ends = Millis(int(chain[-1].not_valid_after_utc.timestamp()) * SECOND)
        return Authority(
            issuer.id,
            _name_of(chain[0]),
            _name_of(chain[-1]),
            issuer.expires_at,
            ends,
            soon=issuer.expires_at <= now + _ISSUER_ENDS,
            is_over=issuer.expires_at <= now,
        )

    def _account_of(self, text: str) -> AccountId | None:
        """The id of the account that an id or an e-mail address names."""
        accounts = self._certificates.accounts
        found = accounts.account_by_email(text.lower()) if "@" in text else accounts.account(AccountId(text))
        return found.id if found else None

    def _email_of(self, account: AccountId | None) -> str:
        found = self._certificates.accounts.account(account) if account else None
        return found.email if found else ""


def standing_of(one: Certificate, now: Millis) -> str:
    """One of STANDINGS."""
    if one.state == "revoked":
        return "revoked"
    if one.expires_at <= now:
        return "ended"
    if one.state == "inactive":
        return "inactive"
    if one.superseded_at is not None:
        return "followed"
    return "ending" if one.expires_at <= now + max(WARNING_DAYS) * DAY else "active"


def _name_of(certificate: x509.Certificate) -> str:
    """What a person calls it: its common name, or all of its name."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def _may_all(actor: Actor) -> bool:
    return "certificates:manage" in actor.scopes


def _texts_of(given: Fields) -> dict[str, str]:
    """What stood in the fields of a form, to stand there again."""
    return {name: value for name, value in given.items() if isinstance(value, str)}
