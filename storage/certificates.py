"""Certificates and those who issue them: one text of SQL for SQLite, PostgreSQL, MySQL and MariaDB.

Whatever changes a certificate locks its row first, then counts the change with its issuer, then queues what webhooks are told: all
in one transaction, and always in that order, so that nobody waits in a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from records import (
    AccountId,
    Certificate,
    CertificateChange,
    CertificateId,
    CertificateState,
    Issuer,
    Millis,
    Notice,
    Reason,
)
from storage.access_session import AccessDatabase, AccessSession, is_text, text_of
from storage.certificates_outbox import OutboxTables
from storage.secret_table import SecretTable

_ISSUER = "i.id, i.certificate, i.chain, i.created_at, i.expires_at, i.changes, i.crl, i.crl_number, i.crl_changes, i.crl_at"
_CERTIFICATE = (
    "c.id, c.account, c.email, c.serial, c.issuer, c.digest, c.der, c.created_at, c.begins_at, c.expires_at, c.state, "
    "c.changed_at, c.reason, c.replaces, c.superseded_at, c.warned_days"
)
_NEWEST_FIRST = "ORDER BY c.created_at DESC, c.id"


class CertificateTables(OutboxTables, SecretTable):
    """A certificate store on `database`."""

    def __init__(self, database: AccessDatabase) -> None:
        OutboxTables.__init__(self, database)
        SecretTable.__init__(self, database, "mayfly_certificate_secrets")
        self.now = database.now
        sql = database.sql
        self._add_issuer = sql(
            "INSERT INTO mayfly_issuers "
            "(id, certificate, chain, created_at, expires_at, changes, crl_number, crl_changes, crl_at) VALUES "
            "(:issuer, :der, :chain, :created_at, :expires_at, 0, 0, 0, 0)"
        )
        self._issuers = sql(f"SELECT {_ISSUER} FROM mayfly_issuers i ORDER BY i.created_at DESC, i.id")
        self._issuer = sql(f"SELECT {_ISSUER} FROM mayfly_issuers i WHERE i.id = :issuer")
        self._count_change = sql("UPDATE mayfly_issuers SET changes = changes + 1 WHERE id = :issuer")
        self._keep_crl = sql(
            "UPDATE mayfly_issuers SET crl = :crl, crl_number = crl_number + 1, crl_changes = :changes, crl_at = :made_at "
            "WHERE id = :issuer AND crl_number = :number"
        )
        self._listed = sql(
            f"SELECT {_CERTIFICATE} FROM mayfly_certificates c "
            "WHERE c.issuer = :issuer AND c.state <> 'active' AND c.expires_at > {now}"
        )
        self._add_certificate = sql(
            "INSERT INTO mayfly_certificates "
            "(id, account, email, serial, issuer, digest, der, created_at, begins_at, expires_at, state, changed_at, reason, "
            "replaces, superseded_at, warned_days) VALUES "
            "(:certificate_id, :account, :email, :serial, :issuer, :digest, :der, :created_at, :begins_at, :expires_at, :state, "
            ":changed_at, :reason, :replaces, :superseded_at, :warned_days)"
        )
        self._certificate = sql(f"SELECT {_CERTIFICATE} FROM mayfly_certificates c WHERE c.id = :certificate_id")
        self._certificate_locked = sql(f"SELECT {_CERTIFICATE} FROM mayfly_certificates c WHERE c.id = :certificate_id {{lock}}")
        self._by_digest = sql(f"SELECT {_CERTIFICATE} FROM mayfly_certificates c WHERE c.digest = :digest")
        self._certificates = sql(f"SELECT {_CERTIFICATE} FROM mayfly_certificates c {_NEWEST_FIRST}")
        self._certificates_of = sql(f"SELECT {_CERTIFICATE} FROM mayfly_certificates c WHERE c.account = :account {_NEWEST_FIRST}")
        self._change_certificate = sql(
            "UPDATE mayfly_certificates SET state = :state, changed_at = :changed_at, reason = :reason, "
            "superseded_at = :superseded_at, warned_days = :warned_days WHERE id = :certificate_id"
        )
        self._to_look_after = sql(
            f"SELECT {_CERTIFICATE} FROM mayfly_certificates c WHERE c.state <> 'revoked' AND c.expires_at > {{now}} "
            "AND (c.superseded_at <= {now} OR c.expires_at <= {now} + :ahead) ORDER BY c.expires_at, c.id"
        )

    # Those who issue

    def add_issuer(self, issuer: Issuer, name: str, sealed: bytes) -> None:
        values = {
            "issuer": issuer.id,
            "der": issuer.certificate,
            "chain": issuer.chain,
            "created_at": issuer.created_at,
            "expires_at": issuer.expires_at,
        }

        def act(session: AccessSession) -> None:
            with session.transaction():
                session.changed(self._add_issuer, **values)
                session.changed(self._add_secret, name=name, sealed=sealed)

        self._database.do(act)

    def issuers(self) -> list[Issuer]:
        return [_issuer(row) for row in self._database.do(lambda session: session.all(self._issuers))]

    def issuer(self, issuer_id: str) -> Issuer | None:
        row = self._database.do(lambda session: session.one(self._issuer, issuer=issuer_id)) if is_text(issuer_id) else None
        return _issuer(row) if row else None

    def keep_crl(self, issuer: Issuer, crl: bytes, made_at: Millis) -> bool:
        values = {"issuer": issuer.id, "crl": crl, "changes": issuer.changes, "made_at": made_at, "number": issuer.crl_number}
        return self._database.do(lambda session: session.changed(self._keep_crl, **values)) > 0

    def listed_certificates(self, issuer_id: str) -> list[Certificate]:
        return [_certificate(row) for row in self._database.do(lambda session: session.all(self._listed, issuer=issuer_id))]

    # Certificates

    def add_certificate(self, certificate: Certificate, notices: Sequence[Notice]) -> None:
        def act(session: AccessSession) -> None:
            with session.transaction():
                session.changed(self._add_certificate, **_values(certificate))
                self._queue(session, notices)

        self._database.do(act)

    def certificate(self, certificate_id: CertificateId) -> Certificate | None:
        return self._find(self._certificate, certificate_id=certificate_id) if is_text(certificate_id) else None

    def certificate_by_digest(self, digest: bytes) -> Certificate | None:
        return self._find(self._by_digest, digest=digest)

    def _find(self, statement: Any, **values: object) -> Certificate | None:
        row = self._database.do(lambda session: session.one(statement, **values))
        return _certificate(row) if row else None

    def certificates(self, account_id: AccountId | None = None) -> list[Certificate]:
        if account_id is None:
            return [_certificate(row) for row in self._database.do(lambda session: session.all(self._certificates))]
        if not is_text(account_id):
            return []
        return [
            _certificate(row) for row in self._database.do(lambda session: session.all(self._certificates_of, account=account_id))
        ]

    def due_certificates(self, ahead_ms: int) -> list[Certificate]:
        return [_certificate(row) for row in self._database.do(lambda session: session.all(self._to_look_after, ahead=ahead_ms))]

    def change_certificate(
        self, certificate_id: CertificateId, change: Callable[[Certificate], CertificateChange]
    ) -> Certificate | None:
        def act(session: AccessSession) -> Certificate | None:
            with session.transaction():
                row = session.one(self._certificate_locked, certificate_id=certificate_id)
                if row is None:
                    return None
                was = _certificate(row)
                becomes = change(was)
                values = _values(becomes.certificate) | {"certificate_id": was.id}
                session.changed(self._change_certificate, **values)
                if becomes.certificate.state != was.state:
                    session.changed(self._count_change, issuer=was.issuer)
                if becomes.follower:
                    session.changed(self._add_certificate, **_values(becomes.follower))
                self._queue(session, becomes.notices)
                return _certificate(session.one(self._certificate, certificate_id=was.id))

        return self._database.do(act) if is_text(certificate_id) else None

    # All

    def tidy(self) -> None:
        self._drop_old_deliveries()
        self._database.overwrite()

    def health(self) -> None:
        self._database.do(lambda session: session.one(self._newest))

    def close(self) -> None:
        self._database.close()


def _values(certificate: Certificate) -> dict[str, Any]:
    return {
        "certificate_id": certificate.id,
        "account": certificate.account,
        "email": certificate.email,
        "serial": certificate.serial,
        "issuer": certificate.issuer,
        "digest": certificate.digest,
        "der": certificate.der,
        "created_at": certificate.created_at,
        "begins_at": certificate.begins_at,
        "expires_at": certificate.expires_at,
        "state": certificate.state,
        "changed_at": certificate.changed_at,
        "reason": certificate.reason,
        "replaces": certificate.replaces,
        "superseded_at": certificate.superseded_at,
        "warned_days": certificate.warned_days,
    }


def _issuer(row: Any) -> Issuer:
    issuer_id, certificate, chain, created_at, expires_at, changes, crl, crl_number, crl_changes, crl_at = row
    return Issuer(
        text_of(issuer_id),
        bytes(certificate),
        bytes(chain),
        Millis(created_at),
        Millis(expires_at),
        changes,
        None if crl is None else bytes(crl),
        crl_number,
        crl_changes,
        Millis(crl_at),
    )


def _certificate(row: Any) -> Certificate:
    (
        certificate_id, account, email, serial, issuer, digest, der, created_at, begins_at, expires_at, state, changed_at, reason,
        replaces, superseded_at, warned_days,
    ) = row  # fmt: skip
    return Certificate(
        CertificateId(text_of(certificate_id)),
        AccountId(text_of(account)),
        text_of(email),
        text_of(serial),
        text_of(issuer),
        bytes(digest),
        bytes(der),
        Millis(created_at),
        Millis(begins_at),
        Millis(expires_at),
        cast(CertificateState, text_of(state)),
        Millis(changed_at),
        cast(Reason, text_of(reason)),
        None if replaces is None else CertificateId(text_of(replaces)),
        superseded_at,
        warned_days,
    )
