/** Keys of documents and proofs: PBKDF2-SHA256, and AES-256-GCM with its parameters. */

import { utf8 } from "./bytes.js";

export const PASSPHRASE_ROUNDS = 600_000; // OWASP's figure for PBKDF2-SHA256

/** Whether this browser can: it needs https or this very machine, and streams (which are named) that know how to deflate. */
export function capable(stream) {
  try {
    return Boolean(crypto.subtle && new globalThis[stream]("deflate-raw"));
  } catch {
    return false;
  }
}

/** @param {Uint8Array} secret @param {Uint8Array} salt @param {number} rounds @returns {Promise<Uint8Array>} 32 bytes */
export async function pbkdf2(secret, salt, rounds) {
  const key = await crypto.subtle.importKey("raw", secret, "PBKDF2", false, ["deriveBits"]);
  const parameters = { name: "PBKDF2", hash: "SHA-256", salt, iterations: rounds };
  return new Uint8Array(await crypto.subtle.deriveBits(parameters, key, 256));
}

/** The key that a document is sealed with. @returns {Promise<CryptoKey>} */
export async function cipherKey(key, passphrase, salt, rounds) {
  const secret = await pbkdf2(new Uint8Array([...key, ...utf8(passphrase)]), salt, rounds);
  return crypto.subtle.importKey("raw", secret, "AES-GCM", false, ["encrypt", "decrypt"]);
}

/** A document's parameters, `adata`, are authenticated as they are written. */
export const gcm = (iv, adata) => ({ name: "AES-GCM", iv, additionalData: utf8(JSON.stringify(adata)), tagLength: 128 });
