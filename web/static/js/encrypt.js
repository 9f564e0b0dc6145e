/**
 * End-to-end encryption in the PrivateBin v2 document format (its "Encryption format" wiki page): AES-256-GCM over deflated JSON,
 * keyed by PBKDF2-SHA256 of a random key followed by the passphrase, its parameters authenticated. `decrypt.js` opens what this
 * makes, and `client/mayfly/envelope.py` is both in Python; all are held to the same vectors.
 */

import { BASE58, toBase64, utf8 } from "./bytes.js";
import { PASSPHRASE_ROUNDS, cipherKey, gcm } from "./derive.js";

const ROUNDS = 100_000; // the key is 256 random bits: nobody guesses it

/** @returns {Uint8Array} a random key for one document, 32 bytes */
export const newKey = () => crypto.getRandomValues(new Uint8Array(32));

/** A key as it stands in a link's fragment. @param {Uint8Array} key @returns {string} base58 */
export function encodeKey(key) {
  let number = BigInt("0x0" + Array.from(key, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  let digits = "";
  for (; number > 0n; number /= 58n) digits = BASE58[Number(number % 58n)] + digits;
  const zeros = key.findIndex((byte) => byte !== 0);
  return "1".repeat(zeros < 0 ? key.length : zeros) + digits;
}

/**
 * Encrypt for whoever has the key, and the passphrase if there is one.
 * @param {import("./decrypt.js").Plain} plain
 * @param {Uint8Array} key 32 bytes
 * @param {string} passphrase empty for none
 * @returns {Promise<object>} the document
 */
export async function encrypt(plain, key, passphrase) {
  const iv = crypto.getRandomValues(new Uint8Array(16));
  const salt = crypto.getRandomValues(new Uint8Array(8));
  const rounds = passphrase ? PASSPHRASE_ROUNDS : ROUNDS;
  const format = plain.format === "markdown" ? "markdown" : "plaintext";
  const adata = [[toBase64(iv), toBase64(salt), rounds, 256, 128, "aes", "gcm", "zlib"], format, 0, 0];
  const inside = { paste: plain.text };
  if (plain.file) {
    inside.attachment = `data:${plain.mediaType};base64,${toBase64(plain.file)}`;
    inside.attachment_name = plain.fileName;
  }
  const packed = await deflate(utf8(JSON.stringify(inside)));
  const cipher = await cipherKey(key, passphrase, salt, rounds);
  const sealed = await crypto.subtle.encrypt(gcm(iv, adata), cipher, packed);
  return { v: 2, adata, ct: toBase64(new Uint8Array(sealed)) };
}

function deflate(content) {
  const stream = new Blob([content]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}
