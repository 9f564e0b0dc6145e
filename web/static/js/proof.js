/** The proof with which a reader claims a message: it tells the server nothing of key or passphrase. */

import { toBase64Url, utf8 } from "./bytes.js";
import { PASSPHRASE_ROUNDS, pbkdf2 } from "./derive.js";

/**
 * A passphrase is stretched as in the document, under a salt of its own, so that the server's hash of the proof is no quicker
 * way to guess it.
 * @param {Uint8Array} key 32 bytes
 * @param {string} passphrase empty for none
 * @returns {Promise<string>} 43 characters of base64url
 */
export async function proofOf(key, passphrase) {
  if (!passphrase) return toBase64Url(await hkdf(key, "mayfly proof v1", 32));
  const salt = await hkdf(key, "mayfly proof salt v1", 16);
  const stretched = await pbkdf2(utf8(passphrase), salt, PASSPHRASE_ROUNDS);
  const both = new Uint8Array([...key, ...stretched]);
  return toBase64Url(await hkdf(both, "mayfly proof v1 passphrase", 32));
}

async function hkdf(secret, info, length) {
  const key = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const parameters = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(32), info: utf8(info) };
  return new Uint8Array(await crypto.subtle.deriveBits(parameters, key, 8 * length));
}
