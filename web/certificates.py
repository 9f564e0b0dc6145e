"""Certificates, as admins look after them, and everybody after their own; and the authority, for anybody. No Flask here."""

from __future__ import annotations

from typing import Any

from access.certificates import DEFAULT_OVERLAP_DAYS, MAX_CSR_CHARACTERS, MAX_OVERLAP_DAYS, Certificates
from access.handover import Handover
from errors import NothingThere
from fields import Choice, Field, Line, Model, Text, Whole
from records import CERTIFICATE_STATES, REASONS, Certificate
from web.answers import Answer, as_json, iso
from web.authentication import actor_of
from web.bodies import read_query
from web.gate import Environ, own_origin
from web.handlers import body_of
from web.paths import MESSAGE, RECEIPT

PEM, CRL = "application/x-pem-file", "application/pkix-crl"

_CSR = Text(0, MAX_CSR_CHARACTERS)
NEW_CERTIFICATE = Model(
    Field("account", Line(254), "The id of the account it is for.", required=True),
    Field("csr", _CSR, "A certificate signing request (PKCS#10 in PEM). Without it the key is made here, and handed over."),
)
CERTIFICATE_CHANGE = Model(
    Field("state", Choice(CERTIFICATE_STATES), "Whether it counts. What is revoked stays so.", required=True),
    Field("reason", Choice(REASONS), "Why it is revoked."),
)
FOLLOWER = Model(
    Field("csr", _CSR, "A certificate signing request (PKCS#10 in PEM).", required=True),
    Field(
        "overlap_days",
        Whole(0, MAX_OVERLAP_DAYS),
        "For so many days the one that is followed counts as well; then it is revoked.",
        DEFAULT_OVERLAP_DAYS,
    ),
)
LOOK = Model(Field("account", Line(254), "Those of one account, by its id."))
"""The query of a list."""


class CertificatePages:
    """The handlers of `/certificates`, `/ca.pem` and `/ca.crl`."""

    def __init__(self, public_url: str | None, certificates: Certificates) -> None:
        self._public_url = public_url
        self._certificates = certificates

    def certificates(self, environ: Environ) -> Answer:
        """`GET /certificates`"""
        account = LOOK.read(read_query(environ.get("QUERY_STRING", "")))["account"]
        found = self._certificates.all(actor_of(environ), account)
        return as_json(200, {"certificates": [certificate_document(one) for one in found]})

    def add_certificate(self, environ: Environ) -> Answer:
        """`POST /certificates`"""
        values = NEW_CERTIFICATE.read(body_of(environ).fields)
        if values["csr"]:
            made = self._certificates.add(actor_of(environ), values["account"], values["csr"])
            return self._made(environ, made)
        made, handed = self._certificates.make(actor_of(environ), values["account"])
        return self._made(environ, made, self._handover(environ, handed))

    def certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`GET /certificates/<certificate_id>`"""
        return as_json(200, certificate_document(self._certificates.get(actor_of(environ), certificate_id)))

    def certificate_pem(self, environ: Environ, certificate_id: str) -> Answer:
        """`GET /certificates/<certificate_id>/pem`"""
        return Answer(200, PEM, self._certificates.pem(actor_of(environ), certificate_id))

    def change_certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`PATCH /certificates/<certificate_id>`"""
        values = CERTIFICATE_CHANGE.read(body_of(environ).fields)
        changed = self._certificates.set_state(actor_of(environ), certificate_id, values["state"], values["reason"])
        return as_json(200, certificate_document(changed))

    def renew_certificate(self, environ: Environ, certificate_id: str) -> Answer:
        """`POST /certificates/<certificate_id>/renew`"""
        values = FOLLOWER.read(body_of(environ).fields)
        made = self._certificates.renew(actor_of(environ), certificate_id, values["csr"], values["overlap_days"])
        return self._made(environ, made)

    def _made(self, environ: Environ, made: Certificate, more: dict[str, Any] | None = None) -> Answer:
        pem = self._certificates.pem(actor_of(environ), made.id).decode()
        document = {**certificate_document(made), "pem": pem, **(more or {})}
        return as_json(201, document, (("Location", f"/certificates/{made.id}"),))

    def _handover(self, environ: Environ, handed: Handover) -> dict[str, Any]:
        base, message = self._public_url or own_origin(environ), handed.message
        return {
            "link": f"{base}{MESSAGE[message.vault]}{message.link_id}#{handed.fragment}",
            "receipt": f"{base}{RECEIPT[message.vault]}{message.receipt}",
            "passphrase": handed.passphrase,
        }

    # The authority, for anybody

    def authority(self, environ: Environ) -> Answer:
        """`GET /ca.pem`"""
        return Answer(200, PEM, self._certificates.authority.pem())

    def revoked(self, environ: Environ) -> Answer:
        """`GET /ca.crl`"""
        return Answer(200, CRL, self._certificates.authority.crl())

    def revoked_of(self, environ: Environ, issuer_file: str) -> Answer:
        """`GET /ca/<issuer_file>`: the list of one issuer, `<issuer>.crl`, also of one before the newest."""
        issuer, dot, ending = issuer_file.rpartition(".")
        if (dot, ending) != (".", "crl"):
            raise NothingThere
        return Answer(200, CRL, self._certificates.authority.crl(issuer))


def certificate_document(one: Certificate) -> dict[str, Any]:
    """A certificate as it is told."""
    return {
        "id": one.id,
        "account": one.account,
        "email": one.email,
        "serial": one.serial,
        "sha256": one.digest.hex(),
        "issuer": one.issuer,
        "state": one.state,
        "reason": one.reason or None,
        "created_at": iso(one.created_at),
        "not_before": iso(one.begins_at),
        "not_after": iso(one.expires_at),
        "changed_at": iso(one.changed_at),
        "replaces": one.replaces,
        "superseded_at": None if one.superseded_at is None else iso(one.superseded_at),
    }
