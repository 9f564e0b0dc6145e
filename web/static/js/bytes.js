/** Bytes as text: base64, base64url, base58, and UTF-8. Nothing here knows of encryption. */

import { EnvelopeError } from "./errors.js";

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const CHUNK = 0x8000; // String.fromCharCode takes only so many arguments

/** @param {string} text @returns {Uint8Array} */
export const utf8 = (text) => new TextEncoder().encode(text);

/** @param {Uint8Array} bytes @returns {string} @throws {TypeError} if it is not UTF-8 */
export const fromUtf8 = (bytes) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);

/** @param {Uint8Array} bytes @returns {string} base64 with padding */
export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += CHUNK) {
    text += String.fromCharCode(...bytes.subarray(at, at + CHUNK));
  }
  return btoa(text);
}

/** @param {string} text base64 with padding @returns {?Uint8Array} null if it is not base64 */
export function fromBase64(text) {
  if (typeof text !== "string" || !/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4) return null;
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** @param {Uint8Array} bytes @returns {string} base64url without padding */
export const toBase64Url = (bytes) =>
  toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/** A key as it stands in a link's fragment. @param {Uint8Array} key @returns {string} base58 */
export function encodeKey(key) {
  let number = BigInt("0x0" + Array.from(key, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  let digits = "";
  for (; number > 0n; number /= 58n) digits = ALPHABET[Number(number % 58n)] + digits;
  const zeros = key.findIndex((byte) => byte !== 0);
  return "1".repeat(zeros < 0 ? key.length : zeros) + digits;
}

/**
 * The key of a link's fragment. PrivateBin drops zeros at its front, others write each as a 1: both are taken.
 * @param {string} fragment base58
 * @returns {Uint8Array} 32 bytes
 * @throws {EnvelopeError} if it is not a key
 */
export function decodeKey(fragment) {
  let number = 0n;
  const digits = Array.from(fragment, (character) => ALPHABET.indexOf(character));
  if (!digits.length || digits.length > 44 || digits.includes(-1)) throw new EnvelopeError("fragment");
  for (const digit of digits) number = number * 58n + BigInt(digit);
  const hex = number.toString(16).padStart(64, "0");
  if (hex.length > 64) throw new EnvelopeError("fragment");
  return Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
}
