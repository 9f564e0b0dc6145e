"""The routes of certificates, and of the authority they come from."""

from __future__ import annotations

from errors import FieldRefused, NoAuthority, NothingThere, ScopeRequired, WrongState
from web.certificates import CRL, LOOK, PEM
from web.description import Described, Example, Parameter, Taken, Told
from web.description.examples import ACCOUNT_ID, CERTIFICATE_ID, CSR, ISSUER_ID, LATER, NOW

_EMAIL = "rui@example.com"
_CERTIFICATE = {
    "id": CERTIFICATE_ID,
    "account": ACCOUNT_ID,
    "email": _EMAIL,
    "serial": "47240fb0cef12986096ae8f0ecd986ae5489e9bc",
    "sha256": "9f64a747e1b97f131fabb6b447296c9b6f0201e79fb3c5356e6c77e89b6a806a",
    "issuer": ISSUER_ID,
    "state": "active",
    "reason": None,
    "created_at": NOW,
    "not_before": NOW,
    "not_after": LATER,
    "changed_at": NOW,
    "replaces": None,
    "superseded_at": None,
}

_AT_CERTIFICATE = {"certificate_id": Parameter("The id of the certificate.", CERTIFICATE_ID)}
_MADE = {201: Told("The certificate.", ("NewCertificateMade",), page=True, headers=("Location",))}
_SEEN = {200: Told("The certificate.", ("Certificate",), page=True)}
_NONE = (NoAuthority, NothingThere)

CERTIFICATES: dict[str, Described] = {
    "GET /certificates": Described(
        "list_certificates",
        "One's own certificates, or with the scope certificates:manage those of an account or all",
        {200: Told("The certificates, the newest first.", ("Certificates",), page=True)},
        (Example("Those of an account", query=f"account={ACCOUNT_ID}", answer={"certificates": [_CERTIFICATE]}),),
        query=LOOK,
        refuses=(FieldRefused, ScopeRequired),
        language=True,
    ),
    "POST /certificates": Described(
        "add_certificate",
        "Issue a certificate to an account",
        _MADE,
        (
            Example("With a key that is made here", 201, {"account": ACCOUNT_ID}),
            Example("By a request", 201, {"account": ACCOUNT_ID, "csr": CSR}),
        ),
        takes=Taken(("NewCertificate",), ("NewCertificateForm",)),
        refuses=(FieldRefused, WrongState, *_NONE),
        language=True,
    ),
    "GET /certificates/<certificate_id>": Described(
        "see_certificate",
        "A certificate",
        _SEEN,
        (Example("One of them", answer=_CERTIFICATE),),
        path=_AT_CERTIFICATE,
        refuses=(NothingThere,),
        language=True,
    ),
    "PATCH /certificates/<certificate_id>": Described(
        "change_certificate",
        "Switch a certificate off and on, or revoke it for good; its own account can switch it off",
        {200: Told("The certificate.", ("Certificate",))},
        (
            Example("Switch it off", body={"state": "inactive"}, answer={**_CERTIFICATE, "state": "inactive"}),
            Example(
                "Revoke it",
                body={"state": "revoked", "reason": "keyCompromise"},
                answer={**_CERTIFICATE, "state": "revoked", "reason": "keyCompromise"},
            ),
        ),
        takes=Taken(("CertificateChange",), ("CertificateChangeForm",)),
        path=_AT_CERTIFICATE,
        refuses=(FieldRefused, NothingThere, ScopeRequired, WrongState),
    ),
    "POST /certificates/<certificate_id>": Described(
        "act_on_certificate",
        "The same by forms, which do not know PATCH",
        _SEEN,
        (Example("Switch it off", body={"do": "deactivate"}, answer={**_CERTIFICATE, "state": "inactive"}),),
        takes=Taken(("CertificateAct",), ("CertificateActForm",)),
        path=_AT_CERTIFICATE,
        refuses=(FieldRefused, NothingThere, ScopeRequired, WrongState),
        language=True,
    ),
    "GET /certificates/<certificate_id>/pem": Described(
        "get_certificate",
        "A certificate and those above it but for the root, as servers and clients are given them",
        {200: Told("PEM.", other=(PEM,))},
        (Example("One of them"),),
        path=_AT_CERTIFICATE,
        refuses=(NothingThere,),
    ),
    "POST /certificates/<certificate_id>/renew": Described(
        "renew_certificate",
        "Issue the certificate that follows another, which counts beside it for a while",
        _MADE,
        (Example("By a request for the same key", 201, {"csr": CSR}),),
        takes=Taken(("CertificateFollower",), ("CertificateFollowerForm",)),
        path=_AT_CERTIFICATE,
        refuses=(FieldRefused, WrongState, *_NONE),
        language=True,
    ),
    "GET /ca.pem": Described(
        "get_authority",
        "The authority: who issues, and what leads from them to their root",
        {200: Told("PEM.", other=(PEM,))},
        (Example("For a server that asks for client certificates"),),
        refuses=(NoAuthority,),
    ),
    "GET /ca.crl": Described(
        "get_revoked",
        "The certificates of the newest issuer that are revoked, or at the moment switched off",
        {200: Told("A signed list (RFC 5280), good for a day.", other=(CRL,))},
        (Example("For a server that asks for client certificates"),),
        refuses=_NONE,
    ),
    "GET /ca/<issuer_file>": Described(
        "get_revoked_of_issuer",
        "The same of any issuer, also of one before the newest",
        {200: Told("A signed list.", other=(CRL,))},
        (Example("Of one issuer"),),
        path={"issuer_file": Parameter("The id of the issuer, and .crl.", f"{ISSUER_ID}.crl")},
        refuses=(NothingThere,),
    ),
}
