"""Make envelope.json: `python -m tests.vectors.make_envelope` (needs node, and what requirements-dev.txt brings).

What is expected comes from other people's code: fragments from the base58 package, proofs from hashlib and hmac by hand, documents
from pbincli, and those that must be refused from pycryptodome. Ours are there as well, so that what was made once opens for ever.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import base58
from Crypto.Cipher import AES
from pbincli.format import Paste

import mayfly.envelope as ours
from tests.node import Node

HERE = Path(__file__).parent
KEY = bytes(range(32))
PASSPHRASE = "Zwölf Boxkämpfer"
PROVENANCE = (
    "Made by make_envelope.py, beside this file. Fragments: base58 (PyPI). Proofs: HKDF (RFC 5869), PBKDF2 by hashlib and hmac, "
    "without Mayfly's code. Documents 'pbincli': pbincli 0.3.7 (PyPI), PrivateBin's command-line client, class Paste. Documents "
    "'mayfly-python' and 'mayfly-javascript': our own, as of Mayfly 0.2.0; they must open in every later version. Refusals: "
    "AES-GCM by pycryptodome, PBKDF2 by hashlib, deflate by zlib; each has one thing wrong with it, and 'code' says which."
)


def main() -> None:
    vectors = {
        "provenance": PROVENANCE,
        "key": KEY.hex(),
        "passphrase": PASSPHRASE,
        "fragments": fragments(),
        "fragments_refused": fragments_refused(),
        "proofs": [proof(key, passphrase) for key in (KEY, bytes(32)) for passphrase in ("", PASSPHRASE)],
        "documents": [*by_pbincli(), *by_ours(), *odd_but_allowed()],
        "refusals": list(refusals()),
    }
    # One case a line: a change shows as what it is.
    lines = [f" {json.dumps(name)}: {_cases(value)}" for name, value in vectors.items()]
    (HERE / "envelope.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _cases(value: object) -> str:
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(f"  {json.dumps(case)}" for case in value) + "\n ]"


def fragments() -> list[dict[str, str]]:
    """`fragment` is how we write a key; `also` how PrivateBin's own page writes one that begins with zeros."""
    keys = (KEY, bytes(32), bytes(31) + b"\1", b"\xff" * 32, bytes(2) + b"\x2a" * 30, hashlib.sha256(b"a key").digest())
    return [
        {"key": key.hex(), "fragment": base58.b58encode(key).decode(), "also": base58.b58encode_int(int.from_bytes(key)).decode()}
        for key in keys
    ]


def fragments_refused() -> list[str]:
    good = base58.b58encode(KEY).decode()
    too_big = base58.b58encode_int(1 << 256).decode()
    return [
        "",
        "0" + good[1:],
        good[:-1] + "l",
        good[:-1] + "O",
        good[:-1] + "I",
        good + " ",
        "-" + good,
        "ä" * 43,
        "١" * 43,
        good + "1" * 5,
        too_big,
        "1" * 45,
        "z" * 44,
        "\U0001f511",
    ]


def proof(key: bytes, passphrase: str) -> dict[str, str]:
    if passphrase:
        salt = hkdf(key, b"mayfly proof salt v1", 16)
        stretched = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, 600_000)
        secret = hkdf(key + stretched, b"mayfly proof v1 passphrase", 32)
    else:
        secret = hkdf(key, b"mayfly proof v1", 32)
    return {"key": key.hex(), "passphrase": passphrase, "proof": base64.urlsafe_b64encode(secret).decode().rstrip("=")}


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 without a salt, which is one of zeros; one block is enough for up to 32 bytes."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")[:length]


def plain(text: str, format_: str = "text", file: bytes | None = None, name: str = "", media_type: str = "") -> dict[str, Any]:
    return {
        "text": text,
        "format": format_,
        "file": None if file is None else file.hex(),
        "file_name": name,
        "media_type": media_type,
    }


def by_pbincli() -> list[dict[str, Any]]:
    text = "für alle 🦋\r\nzweite Zeile\0"
    attached = HERE / "notes (1).txt"
    attached.write_bytes(b"attached\0\xff")
    try:
        return [
            pasted("a text", plain(text)),
            pasted("a text with a passphrase", plain(text), passphrase=PASSPHRASE),
            pasted("markdown", plain("**bold**", "markdown"), formatter="markdown"),
            pasted("source code is text here", plain("x = 1"), formatter="syntaxhighlighting"),
            pasted("not compressed", plain(text), compression="none"),
            pasted("to be burned, and with discussion", plain("x"), flags=(1, 1)),
            pasted("a file", plain("with it", "text", attached.read_bytes(), attached.name, "text/plain"), attachment=attached),
            pasted("an empty text", plain("")),
        ]
    finally:
        attached.unlink()


def pasted(
    what: str,
    expected: dict[str, Any],
    passphrase: str = "",
    formatter: str = "plaintext",
    compression: str = "zlib",
    attachment: Path | None = None,
    flags: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    paste = Paste()
    paste.setHash(base58.b58encode(KEY).decode())
    paste.setText(expected["text"])
    paste.setPassword(passphrase)
    paste.setCompression(compression)
    if attachment:
        paste.setAttachment(str(attachment))
    with contextlib.redirect_stdout(io.StringIO()):
        paste.encrypt(formatter, *flags, "1day")
    return {"by": "pbincli", "what": what, "passphrase": passphrase, "document": json.loads(paste.getJSON()), "plain": expected}


def by_ours() -> list[dict[str, Any]]:
    cases = [
        ("a text", "", plain("für alle 🦋\r\nzweite Zeile\0")),
        ("markdown with a passphrase", PASSPHRASE, plain("# Überschrift", "markdown")),
        ("a file with an odd name", "", plain("", "text", bytes(range(256)), '../a"b<c>\u202e\\d.txt', "application/octet-stream")),
        ("an empty file", "", plain("", "text", b"", "", "application/octet-stream")),
    ]
    made = []
    with Node() as node:
        for what, passphrase, expected in cases:
            file = None if expected["file"] is None else bytes.fromhex(expected["file"])
            told = ours.Plain(expected["text"], expected["format"], file, expected["file_name"], expected["media_type"])
            made.append(("mayfly-python", what, passphrase, ours.encrypt(told, KEY, passphrase), expected))
            document = node.encrypt(expected, KEY, passphrase)
            made.append(("mayfly-javascript", what, passphrase, document, expected))
    return [{"by": by, "what": what, "passphrase": word, "document": made_, "plain": told} for by, what, word, made_, told in made]


def odd_but_allowed() -> list[dict[str, Any]]:
    """What the format allows and none of the others makes."""
    return [
        {"by": "by hand", "what": what, "passphrase": "", "document": document, "plain": expected}
        for what, document, expected in (
            ("twelve bytes of IV and 64 of salt", sealed(iv=bytes(12), salt=bytes(64)), plain("hi")),
            ("10,000 rounds", sealed(rounds=10_000), plain("hi")),
            ("spaces and escapes in the JSON", sealed(content=b'{ "paste" : "\\u00fc\\/" }'), plain("ü/")),
            ("half of a surrogate pair, which is no character", sealed(content=b'{"paste":"a\\ud800b"}'), plain("a\ufffdb")),
            ("a byte order mark at the start of the text", sealed(content=b'{"paste":"\xef\xbb\xbfa"}'), plain("\ufeffa")),
        )
    ]


def deflated(content: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(content) + deflate.flush()


def sealed(
    *,
    iv: bytes = bytes(range(16)),
    salt: bytes = bytes(range(8)),
    rounds: object = 10_000,
    cipher: tuple[object, ...] = (256, 128, "aes", "gcm"),
    compression: object = "zlib",
    tail: tuple[object, ...] = ("plaintext", 0, 0),
    content: bytes = b'{"paste":"hi"}',
    packed: bytes | None = None,
    tag_bytes: int = 16,
    **fields: object,
) -> dict[str, Any]:
    """A document that is right but for what is asked for."""
    adata = [[base64.b64encode(iv).decode(), base64.b64encode(salt).decode(), rounds, *cipher, compression], *tail]
    secret = (
        hashlib.pbkdf2_hmac("sha256", KEY, salt, rounds if isinstance(rounds, int) and rounds > 0 else 1)
        if len(salt)
        else bytes(32)
    )
    gcm = AES.new(secret, AES.MODE_GCM, nonce=iv or b"\0", mac_len=tag_bytes)
    gcm.update(json.dumps(adata, separators=(",", ":")).encode())
    inside = packed if packed is not None else content if compression == "none" else deflated(content)
    ciphertext, tag = gcm.encrypt_and_digest(inside)
    return {"v": 2, "adata": adata, "ct": base64.b64encode(ciphertext + tag).decode()} | fields


def refusals() -> Any:
    def refused(what: str, code: str, document: object, max_bytes: int = 1024) -> dict[str, object]:
        return {"what": what, "code": code, "document": document, "max_bytes": max_bytes}

    good = sealed()
    yield from (refused(what, "fields", value) for what, value in (("null", None), ("a list", []), ("text", "x"), ("a number", 2)))
    yield refused("version 1 of the format", "version", {"data": "{}", "meta": {"formatter": "plaintext"}})
    yield refused("version 3", "version", sealed(v=3))
    yield refused("a version in text", "version", sealed(v="2"))
    yield refused("a field too many", "fields", sealed(status=0))
    for name in ("adata", "ct"):
        yield refused(f"no {name}", "fields", {key: value for key, value in good.items() if key != name})
    yield refused("parameters that are no list", "parameters", sealed(adata={}))
    yield refused("a parameter too many", "parameters", sealed(tail=("plaintext", 0, 0, 0)))
    yield refused("a parameter too few", "parameters", sealed(tail=("plaintext", 0)))
    yield refused("a parameter of the cipher too many", "parameters", sealed(cipher=(256, 128, "aes", "gcm", "x")))
    yield refused("a parameter of the cipher too few", "parameters", sealed(cipher=(256, 128, "aes")))
    for rounds in (9_999, 1, 0, -100_000, 10_000_001):
        yield refused(
            f"{rounds:,} rounds",
            "rounds",
            good | {"adata": [[*good["adata"][0][:2], rounds, *good["adata"][0][3:]], "plaintext", 0, 0]}
            if rounds > 10_000_000
            else sealed(rounds=rounds),
        )
    for odd in ("10000", None, True, [10_000], 10_000.5):
        yield refused(f"rounds of {odd!r}", "rounds", sealed(rounds=odd))
    for cipher in (
        (128, 128, "aes", "gcm"),
        (192, 128, "aes", "gcm"),
        (256, 128, "aes", "cbc"),
        (256, 128, "aes", "ccm"),
        (256, 128, "chacha20", "gcm"),
        (256, 128, "AES", "gcm"),
        ("256", 128, "aes", "gcm"),
        (256, 128, None, "gcm"),
    ):
        yield refused(f"the cipher {cipher}", "cipher", sealed(cipher=cipher))
    for bits in (32, 64, 96, 120):
        yield refused(f"a tag of {bits} bits", "cipher", sealed(cipher=(256, bits, "aes", "gcm"), tag_bytes=bits // 8))
    for compression in ("gzip", "", None, 0, ["zlib"]):
        yield refused(f"compression {compression!r}", "parameters", sealed(compression=compression))
    for format_ in ("html", "", None, ["plaintext"], "constructor", "__proto__"):
        yield refused(f"the format {format_!r}", "parameters", sealed(tail=(format_, 0, 0)))
    for flags in ((2, 0), (0, -1), ("0", 0), (0, None), (True, 0), (0, False)):
        yield refused(f"the flags {flags}", "parameters", sealed(tail=("plaintext", *flags)))
    for length in (0, 8, 11, 13, 15, 17, 32):
        yield refused(f"{length} bytes of IV", "length", sealed(iv=bytes(length)))
    for length in (0, 7, 65):
        yield refused(f"{length} bytes of salt", "length", sealed(salt=bytes(length)))
    ct = good["ct"]
    yield refused("a ciphertext that is only a tag", "length", sealed(ct=base64.b64encode(bytes(16)).decode()))
    yield refused("no ciphertext", "length", sealed(ct=""))
    for what, text in (
        ("base64 that was cut short", ct.rstrip("=")[:-1] + ("" if len(ct.rstrip("=")[:-1]) % 4 else "A")),
        ("a space", ct[:4] + " " + ct[4:]),
        ("a line feed at the end", ct + "\n"),
        ("base64url", "-_" + ct[2:]),
        ("padding too much", ct + "===="),
        ("no text", 5),
        ("null", None),
        ("a letter that is not ASCII", "é" + ct[1:]),
        ("padding alone", "===="),
        ("three of padding", "A==="),
        ("padding in the middle", "AA==" + ct),
    ):
        yield refused(f"a ciphertext with {what}", "parameters", sealed(ct=text))
    yield refused("an IV that is no base64", "parameters", good | {"adata": [["!", *good["adata"][0][1:]], "plaintext", 0, 0]})
    yield refused(
        "a salt that is no text",
        "parameters",
        good | {"adata": [[good["adata"][0][0], 8, *good["adata"][0][2:]], "plaintext", 0, 0]},
    )
    flipped = bytearray(base64.b64decode(ct))
    flipped[0] ^= 1
    yield refused("a bit flipped", "wrong-key", sealed(ct=base64.b64encode(flipped).decode()))
    yield refused("its end missing", "wrong-key", sealed(ct=base64.b64encode(base64.b64decode(ct)[:-1]).decode()))
    yield refused("parameters that were changed", "wrong-key", good | {"adata": [good["adata"][0], "markdown", 0, 0]})
    yield refused("one byte more than may be", "size", sealed(content=json.dumps({"paste": "x" * (1024 - 12)}).encode()))
    yield refused("32 MiB out of 32 KiB", "size", sealed(packed=deflated(b" " * 2**25)), 2**20)
    whole = deflated(b'{"paste":"hi"}')
    yield refused("something after the end of the stream", "incomplete", sealed(packed=whole + b"x"))
    yield refused("a second stream after the first", "incomplete", sealed(packed=whole + whole))
    yield refused("a stream that was cut short", "incomplete", sealed(packed=whole[:-1]))
    yield refused("what is no deflate stream", "incomplete", sealed(packed=b"\xff" * 40))
    yield refused("what is compressed with a header of zlib's", "incomplete", sealed(packed=zlib.compress(b'{"paste":"hi"}')))
    for what, content in (
        ("invalid UTF-8", b'{"paste":"\xff"}'),
        ("half of a surrogate pair in UTF-8", b'{"paste":"\xed\xa0\x80"}'),
        ("no JSON", b"hi"),
        ("nothing", b""),
        ("a byte order mark", b'\xef\xbb\xbf{"paste":"hi"}'),
        ("a list", b'["paste"]'),
        ("null", b"null"),
        ("no text", b"{}"),
        ("a number", b'{"paste":1}'),
        ("NaN", b'{"paste":NaN}'),
        ("a line feed in a string", b'{"paste":"\n"}'),
        ("a field too many", b'{"paste":"hi","x":""}'),
        ("__proto__", b'{"__proto__":{"paste":"hi"}}'),
        ("an end missing", b'{"paste":"hi"'),
        ("two values", b'{"paste":"hi"}{}'),
        ("a file without a name", b'{"paste":"","attachment":"data:a/b;base64,AA=="}'),
        ("a name without a file", b'{"paste":"","attachment_name":"a"}'),
        ("a file that is no data address", b'{"paste":"","attachment":"AA==","attachment_name":"a"}'),
        ("a file that is not base64", b'{"paste":"","attachment":"data:a/b,AA==","attachment_name":"a"}'),
        ("a file in base64 that was cut short", b'{"paste":"","attachment":"data:a/b;base64,AAA","attachment_name":"a"}'),
        ("a comma in the media type", b'{"paste":"","attachment":"data:a,b;base64,AA==","attachment_name":"a"}'),
        (
            "several files, which PrivateBin 2 may send",
            b'{"paste":"","attachment":["data:a/b;base64,AA=="],"attachment_name":["a"]}',
        ),
    ):
        yield refused(f"inside {what}", "fields", sealed(content=content))
    yield refused("not compressed and invalid UTF-8", "fields", sealed(compression="none", content=b'{"paste":"\xff"}'))
    yield refused("500,000 brackets", "fields", sealed(content=b"[" * 500_000), 2**20)


if __name__ == "__main__":
    os.umask(0o022)
    main()
