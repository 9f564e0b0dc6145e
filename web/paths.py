"""Which address belongs to which vault."""

from __future__ import annotations

from records import VaultName

CREATE: dict[VaultName, str] = {"open": "/", "guarded": "/guarded", "sealed": "/sealed"}
MESSAGE: dict[VaultName, str] = {"open": "/message/", "guarded": "/guarded/", "sealed": "/sealed/"}
RECEIPT: dict[VaultName, str] = {"open": "/receipt/", "guarded": "/guarded/receipt/", "sealed": "/sealed/receipt/"}
CREATE_PATHS = frozenset(CREATE.values())
_VAULTS: dict[str, VaultName] = {"": "open", "message": "open", "receipt": "open", "guarded": "guarded", "sealed": "sealed"}


def vault_of(path: str) -> VaultName | None:
    """The vault that an address belongs to, by its first part; None for what no vault or all of them have to do with."""
    return _VAULTS.get(path[1:].partition("/")[0])
