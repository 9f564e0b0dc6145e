"""The secrets of this server (what signs tokens, certificates, the audit), kept under the current key when keys are rotated."""

from __future__ import annotations

import logging

from crypto import key_id_of, seal_secret, unseal_secret
from database import SecretStore
from errors import Damaged, KeyMissing, MayflyError
from keyfile import KeyFile
from records import Sealed

_log = logging.getLogger("mayfly.keys")


def reseal(store: SecretStore, keys: KeyFile) -> None:
    """Seal every secret under the current key. Raises StoreFailed; the first KeyMissing or Damaged, when all others are done."""
    lost: MayflyError | None = None
    for name, (_, sealed) in store.secrets("").items():
        ring = keys.ring()
        try:
            key_id = key_id_of(Sealed(sealed))
            if key_id != ring.current:
                secret = unseal_secret(keys.ring_with(key_id), name, sealed)
                store.replace_secret(name, sealed, seal_secret(ring, name, secret))
        except (KeyMissing, Damaged) as error:
            lost = lost or error
            _log.error("the secret %s of this server cannot be unsealed: %s", name, type(error).__name__)
    if lost:
        raise lost
