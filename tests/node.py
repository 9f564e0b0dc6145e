"""The page's encryption, modules of `web/static/js`, in a process of its own that is asked line by line."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.requirements import require_program
from tests.serving import PROJECT

_SCRIPT = """
import { createInterface } from "node:readline";
import { decodeKey, decrypt } from "./envelope-modules/decrypt.js";
import { encodeKey, encrypt } from "./envelope-modules/encrypt.js";
import { proofOf } from "./envelope-modules/proof.js";

const bytes = (hex) => (hex === null ? null : new Uint8Array(Buffer.from(hex, "hex")));
const hex = (array) => (array === null ? null : Buffer.from(array).toString("hex"));
const does = {
  encodeKey: ({ key }) => encodeKey(bytes(key)),
  decodeKey: ({ fragment }) => hex(decodeKey(fragment)),
  proofOf: ({ key, passphrase }) => proofOf(bytes(key), passphrase),
  encrypt: ({ plain, key, passphrase }) =>
    encrypt(
      { text: plain.text, format: plain.format, file: bytes(plain.file), fileName: plain.file_name, mediaType: plain.media_type },
      bytes(key),
      passphrase,
    ),
  decrypt: async ({ document, key, passphrase, max_bytes }) => {
    const plain = await decrypt(document, bytes(key), passphrase, max_bytes);
    const { text, format, fileName, mediaType } = plain;
    return { text, format, file: hex(plain.file), file_name: fileName, media_type: mediaType };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...asked } = JSON.parse(line);
  let answer;
  try {
    answer = { value: await does[name](asked) };
  } catch (error) {
    answer = { code: error.code ?? String(error) };
  }
  console.log(JSON.stringify(answer));
}
"""


class Refused(Exception):
    """What JavaScript threw: the code of its EnvelopeError, or whatever else it was."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Node:
    """One node process. Skips the test where node is missing."""

    def __enter__(self) -> Node:
        node = require_program("node", "nodejs")
        self._folder = tempfile.TemporaryDirectory()
        # Copied, so that node takes the modules for modules without a package.json among what is served.
        shutil.copytree(PROJECT / "web" / "static" / "js", Path(self._folder.name, "envelope-modules"))
        Path(self._folder.name, "package.json").write_text('{"type": "module"}')
        script = Path(self._folder.name, "ask.js")
        script.write_text(_SCRIPT)
        self._process = subprocess.Popen([node, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
        self._folder.cleanup()

    def _ask(self, name: str, **asked: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"name": name, **asked}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "code" in answer:
            raise Refused(answer["code"])
        return answer["value"]

    def encode_key(self, key: bytes) -> str:
        return str(self._ask("encodeKey", key=key.hex()))

    def decode_key(self, fragment: str) -> bytes:
        return bytes.fromhex(self._ask("decodeKey", fragment=fragment))

    def proof_of(self, key: bytes, passphrase: str) -> str:
        return str(self._ask("proofOf", key=key.hex(), passphrase=passphrase))

    def encrypt(self, plain: dict[str, Any], key: bytes, passphrase: str = "") -> dict[str, Any]:
        return dict(self._ask("encrypt", plain=plain, key=key.hex(), passphrase=passphrase))

    def decrypt(self, document: object, key: bytes, passphrase: str = "", max_bytes: int = 2**20) -> dict[str, Any]:
        """Raises Refused."""
        return dict(self._ask("decrypt", document=document, key=key.hex(), passphrase=passphrase, max_bytes=max_bytes))
