"""Everything that can go wrong, as one tree. Which HTTP status each becomes stands in `web/errors.py`.

    MayflyError
    ├── StartRefused            the server does not start; one line for the operator
    │   ├── SettingRefused        a MAYFLY_… variable that is present but wrong
    │   └── KeyFileRefused        key.json is missing, malformed, or readable by others
    ├── BadRequest              the client can mend it; nothing was stored or used up
    │   ├── FieldRefused          a named field has a value that is not allowed
    │   ├── BodyRefused           the body is cut short, ambiguous, or not what its headers say
    │   ├── LengthRequired        a chunked body
    │   ├── BodyTooLarge
    │   ├── BodyTooSlow
    │   ├── UnsupportedBody       a content type or content encoding that is not taken
    │   ├── UnknownHost           the Host header names no host of ours
    │   └── PrefetchRefused       a browser asks ahead of its user
    ├── NotFound                never existed, opened, expired, burned, locked, purged, not for this reader: all the same
    ├── NothingThere            an account, a key or a link to set a password that is not there
    ├── Taken                   an account with that e-mail address is there already
    ├── LastAdmin               nobody would be left who may look after accounts
    ├── NoAuthority             no certificate can be issued: there is no authority, or it has ended
    ├── WrongState              a certificate is revoked, followed by another, or inactive, and this cannot be done to it
    ├── MethodRefused           the address exists, the method is not for it
    │   └── OpeningRequired       the message opens by POST only
    ├── TickRequired            a form wants to open without its deliberate tick
    ├── PassphraseRequired      no passphrase was sent; no try was used
    ├── ProofRequired           an end-to-end encrypted message, and no proof or (without a passphrase) a wrong one
    ├── PassphraseMismatch      what `crypto` knows of a wrong passphrase; `messages` makes it a
    ├── WrongPassphrase           one try was used, no view
    ├── NotSignedIn             the admin token is missing, wrong, or the session has ended
    ├── MetricsTokenRequired    the same for the token of /metrics
    ├── AccountRequired         for accounts only, and nobody is signed in
    ├── WrongCredentials        what was shown to sign in is wrong, revoked or expired
    ├── ScopeRequired           somebody is signed in who may not do this, or not with what they showed
    ├── CertificateRequired     somebody is signed in, without a certificate of theirs that counts
    ├── SecureRequired          signing in over plain http, from another machine
    ├── ForgedRequest           an admin form that did not come from our own page
    ├── LimitReached            too often; later it will work
    │   ├── TooManyCreates
    │   ├── TooManySignIns
    │   └── TriesInUse            all tries of a passphrase are reserved at this moment
    └── Unavailable             our fault; trying again is right
        ├── StoreFull
        ├── StoreFailed           the store does not answer, or not in time; what it was asked may have been done
        │   └── StoreBusy           it was not asked: no connection was free, or the time was up
        ├── KeyMissing            the key this message was sealed with is not, or not the same, in key.json
        ├── AuditFailed           it could not be written to the audit, and was not done
        └── Damaged               what is stored does not verify

Messages are shown to people: they say what to do next, and never hold a secret. They are written in English, and the pages show
them in the reader's language: what varies in one is a `%(name)s` of the text, with its value beside it.
"""

from __future__ import annotations

from records import Preview


class MayflyError(Exception):
    """The root of the tree. `str(error)` is a sentence for a person: `text`, in English, with `values` filled in."""

    def __init__(self, text: str = "", **values: object) -> None:
        super().__init__(text % values if values else text)
        self.text = text
        self.values = values


class StartRefused(MayflyError):
    """The server does not start."""


class SettingRefused(StartRefused):
    """A MAYFLY_… variable is present but wrong, or unknown."""


class KeyFileRefused(StartRefused):
    """The key file cannot be used. Holds no key bytes."""


class BadRequest(MayflyError):
    """The client can mend it; nothing was stored or used up."""


class FieldRefused(BadRequest):
    """The field `field` is unknown, missing, repeated or out of its bounds."""

    def __init__(self, field: str, why: str, **values: object) -> None:
        super().__init__(why, **values)
        self.field = field


class BodyRefused(BadRequest):
    """The body is cut short, ambiguous, or not what its headers say."""


class LengthRequired(BadRequest):
    """The body came without a length of its own."""

    def __init__(self) -> None:
        super().__init__("Send the body with a Content-Length, not with Transfer-Encoding.")


class BodyTooLarge(BadRequest):
    """The body, or the message in it, is over the limit."""


class BodyTooSlow(BadRequest):
    """The body did not arrive in time."""

    def __init__(self, seconds: int) -> None:
        super().__init__("The body did not arrive within %(seconds)s seconds. Send it again.", seconds=seconds)


class UnsupportedBody(BadRequest):
    """A content type or content encoding that is not taken."""


class UnknownHost(BadRequest):
    """The Host header names no host of ours."""

    def __init__(self) -> None:
        super().__init__("This server does not answer for that host name. Its operator sets MAYFLY_TRUSTED_HOSTS.")


class PrefetchRefused(BadRequest):
    """A browser or proxy asks ahead of its user."""

    def __init__(self) -> None:
        super().__init__("Messages are not loaded ahead of time. Open the link itself.")


class NotFound(MayflyError):
    """There is nothing here, and nobody is told whether there ever was."""

    def __init__(self) -> None:
        super().__init__(
            "There is no message here. It may have been opened, burned or expired, or the link is not complete. "
            "Ask the sender: the receipt says what happened."
        )


class NothingThere(MayflyError):
    """An account, a key, or a link to set a password that is not there, or not any more."""

    def __init__(self) -> None:
        super().__init__("There is nothing at this address, or nothing any more.")


class Taken(MayflyError):
    """An account with that e-mail address is there already."""

    def __init__(self) -> None:
        super().__init__("There is an account with that e-mail address already.")


class LastAdmin(MayflyError):
    """The last enabled admin is to be removed, disabled or no admin any more."""

    def __init__(self) -> None:
        super().__init__("This is the last admin who can sign in. Make another account an admin first.")


class NoAuthority(MayflyError):
    """No certificate can be issued: there is no authority, or it has ended."""

    def __init__(self) -> None:
        super().__init__("This server has no authority for certificates, or it has ended. Its operator makes one: ca init.")


class WrongState(MayflyError):
    """A certificate is revoked, followed by another, or inactive, so that this cannot be done to it."""


class MethodRefused(MayflyError):
    """The address exists, the method is not for it. `allow` lists those that are."""

    def __init__(self, why: str, allow: str) -> None:
        super().__init__(why)
        self.allow = allow


class OpeningRequired(MethodRefused):
    """The message is there, but a safe method may not open it. `preview` is what may be told of it."""

    def __init__(self, preview: Preview) -> None:
        self.preview = preview
        super().__init__("This message is there and has not been opened. Open it by POST (curl -X POST LINK).", "POST, DELETE")


class TickRequired(MayflyError):
    """A form wants to open a message without its deliberate tick."""

    def __init__(self) -> None:
        super().__init__("Tick the box to open the message (with curl: -d open=yes). Nothing was used up.")


class PassphraseRequired(MayflyError):
    """No passphrase was sent; no try was used."""

    def __init__(self) -> None:
        super().__init__("This message needs the passphrase its sender chose. Nothing was used up.")


class ProofRequired(MayflyError):
    """The message is end-to-end encrypted and was asked for without the proof that the whole link gives."""

    def __init__(self) -> None:
        super().__init__(
            "This message is end-to-end encrypted. Open its whole link, with the part after #, in a browser with JavaScript "
            "or with the mayfly client. Nothing was used up."
        )


class PassphraseMismatch(MayflyError):
    """The passphrase does not open the envelope."""


class WrongPassphrase(MayflyError):
    """One try was used, no view. After the last try the message is destroyed."""

    def __init__(self, tries_left: int) -> None:
        if tries_left == 0:
            super().__init__("That passphrase is wrong. Tries left: none: the message has been destroyed.")
        elif tries_left == 1:
            super().__init__("That passphrase is wrong. Tries left: one.")
        else:
            super().__init__("That passphrase is wrong. Tries left: %(tries_left)s.", tries_left=tries_left)
        self.tries_left = tries_left


class NotSignedIn(MayflyError):
    """The admin token is missing or wrong, or the session has ended."""

    def __init__(self) -> None:
        super().__init__("Sign in with the admin token from the key file.")


class MetricsTokenRequired(MayflyError):
    """The token that opens /metrics is missing or wrong."""

    def __init__(self) -> None:
        super().__init__("Send the token of MAYFLY_METRICS_TOKEN, as Authorization: Bearer.")


class AccountRequired(MayflyError):
    """For accounts only, and nobody is signed in. Nobody is told whether there is a message."""

    def __init__(self) -> None:
        super().__init__("This is for people who are signed in. Sign in and try again: nothing was used up.")


class WrongCredentials(MayflyError):
    """What was shown to sign in is wrong, revoked or expired, or belongs to an account that is disabled: it is not told which."""

    def __init__(self) -> None:
        super().__init__("That does not sign anybody in. Look at the e-mail address and the password, or take another key.")


class ScopeRequired(MayflyError):
    """Somebody is signed in who may not do this, or not with what they showed."""

    def __init__(self) -> None:
        super().__init__("You are signed in, but not for this: your account, or the key you use, may not do it.")


class CertificateRequired(MayflyError):
    """Somebody is signed in, and this request came with no certificate of theirs that counts. It is not told which was wrong."""

    def __init__(self) -> None:
        super().__init__(
            "This opens only with a client certificate of your account, which your browser or program shows when it connects. "
            "Install it, or have it made active, and try again: nothing was used up."
        )


class SecureRequired(MayflyError):
    """Signing in over plain http, from another machine: whoever listens on the way would learn the password."""

    def __init__(self) -> None:
        super().__init__("Signing in needs https. Ask the operator of this server for its https address.")


class ForgedRequest(MayflyError):
    """An admin form that did not come from our own page."""

    def __init__(self) -> None:
        super().__init__("That request did not come from this server's own page, or the page was too old. Load it again.")


class LimitReached(MayflyError):
    """Too often; `retry_after` seconds from now it will work."""

    def __init__(self, why: str, retry_after: int) -> None:
        super().__init__(why, seconds=retry_after)
        self.retry_after = retry_after


class TooManyCreates(LimitReached):
    """A client has created more messages within a minute than the operator allows."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("You have created many messages within a minute. Try again in %(seconds)s s.", retry_after)


class TooManySignIns(LimitReached):
    """A client has tried the admin token too often, right or wrong."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("There were too many attempts to sign in. Try again in %(seconds)s s.", retry_after)


class TriesInUse(LimitReached):
    """All tries of a passphrase are reserved at this moment."""

    def __init__(self) -> None:
        super().__init__("All tries for this message are in use at this moment. Try again shortly.", 2)


class Unavailable(MayflyError):
    """Our fault; nothing was lost or used up. `retry_after` is in seconds."""

    def __init__(self, why: str, retry_after: int = 5) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class StoreFull(Unavailable):
    """The quota is reached. What is stored stays, and opens."""

    def __init__(self) -> None:
        super().__init__("This server is full at the moment. Messages expire all the time: try again later.", 60)


class StoreFailed(Unavailable):
    """The store does not answer, or not in time.

    What it was asked may have been done: a reader who sent an Idempotency-Key gets the message by asking again.
    """

    def __init__(self) -> None:
        super().__init__("The message store does not answer. Try again shortly.")


class AuditFailed(Unavailable):
    """What was to be done could not be written to the audit, and was not done."""

    def __init__(self) -> None:
        super().__init__("The audit cannot be written at the moment, so this was not done. Nothing was used up: try again shortly.")


class StoreBusy(StoreFailed):
    """The store was not asked: no connection to it was free, or this request had no time left for another call."""


class KeyMissing(Unavailable):
    """The key of this message is not, or not the same, in key.json."""

    def __init__(self) -> None:
        super().__init__(
            "This server does not have the key for that message at the moment. Nothing was used up: tell its operator.", 60
        )


class Damaged(Unavailable):
    """What is stored does not verify: it was changed, or belongs to another link."""

    def __init__(self) -> None:
        super().__init__("What is stored for this link is damaged and cannot be shown. Nothing was used up.", 60)
