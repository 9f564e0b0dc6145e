/** Opening what `encrypt.js` and others make: PrivateBin v2 documents, and nothing weaker, odd or too large. */

import { BASE58, fromBase64, fromUtf8, utf8 } from "./bytes.js";
import { cipherKey, gcm } from "./derive.js";

const MIN_ROUNDS = 10_000;
const MAX_ROUNDS = 10_000_000;
const TAG_BYTES = 16;
const FORMATS = { plaintext: "text", syntaxhighlighting: "text", markdown: "markdown" };

/** What is wrong with a document or its key. `code` names the sentence that the page shows. */
export class EnvelopeError extends Error {
  /** @param {string} code fragment | version | fields | parameters | cipher | rounds | length | incomplete | size | wrong-key */
  constructor(code) {
    super(code);
    this.code = code;
  }
}

function refuse(code) {
  throw new EnvelopeError(code);
}

/**
 * What is inside a document: a text, or a file with its name and media type.
 * @typedef {{text: string, format: "text"|"markdown", file: ?Uint8Array, fileName: string, mediaType: string}} Plain
 */

/**
 * @param {object} document
 * @param {Uint8Array} key 32 bytes
 * @param {string} passphrase empty for none
 * @param {number} maxBytes what its content may inflate to
 * @returns {Promise<Plain>}
 * @throws {EnvelopeError} for weaker parameters than we make, wrong lengths, unknown fields; code "wrong-key" if it does not open
 */
export async function decrypt(document, key, passphrase, maxBytes) {
  const { iv, salt, rounds, compression, format, sealed } = checked(document);
  const cipher = await cipherKey(key, passphrase, salt, rounds);
  const opening = crypto.subtle.decrypt(gcm(iv, document.adata), cipher, sealed);
  const packed = new Uint8Array(await opening.catch(() => refuse("wrong-key")));
  return unpack(compression === "zlib" ? await inflate(packed, maxBytes) : packed, format);
}

/**
 * The key of a link's fragment. PrivateBin drops zeros at its front, others write each as a 1: both are taken.
 * @param {string} fragment base58
 * @returns {Uint8Array} 32 bytes
 * @throws {EnvelopeError} if it is not a key
 */
export function decodeKey(fragment) {
  let number = 0n;
  const digits = Array.from(fragment, (character) => BASE58.indexOf(character));
  if (!digits.length || digits.length > 44 || digits.includes(-1)) refuse("fragment");
  for (const digit of digits) number = number * 58n + BigInt(digit);
  const hex = number.toString(16).padStart(64, "0");
  if (hex.length > 64) refuse("fragment");
  return Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
}

function checked(document) {
  if (!isObject(document)) refuse("fields");
  if (document.v !== 2) refuse("version");
  if (!hasFields(document, ["v", "adata", "ct"], ["meta"])) refuse("fields");
  const { adata, ct } = document;
  if (!isArray(adata, 4) || !isArray(adata[0], 8)) refuse("parameters");
  const [[ivText, saltText, rounds, keyBits, tagBits, algorithm, mode, compression], format, ...flags] = adata;
  if (keyBits !== 256 || tagBits !== 128 || algorithm !== "aes" || mode !== "gcm") refuse("cipher");
  if (!Number.isInteger(rounds) || rounds < MIN_ROUNDS || rounds > MAX_ROUNDS) refuse("rounds");
  if (!["zlib", "none"].includes(compression) || !flags.every((flag) => flag === 0 || flag === 1)) refuse("parameters");
  if (typeof format !== "string" || !Object.hasOwn(FORMATS, format)) refuse("parameters");
  const [iv, salt, sealed] = [ivText, saltText, ct].map(fromBase64);
  if (!iv || !salt || !sealed) refuse("parameters");
  if (![12, 16].includes(iv.length) || salt.length < 8 || salt.length > 64 || sealed.length <= TAG_BYTES) refuse("length");
  return { iv, salt, rounds, compression, format: FORMATS[format], sealed };
}

function unpack(content, format) {
  let inside;
  try {
    inside = JSON.parse(fromUtf8(content));
  } catch {
    refuse("fields");
  }
  if (!hasFields(inside, ["paste"], ["attachment", "attachment_name"])) refuse("fields");
  if (!Object.values(inside).every((value) => typeof value === "string")) refuse("fields");
  if ("attachment" in inside !== "attachment_name" in inside) refuse("fields");
  const plain = { text: wellFormed(inside.paste), format, file: null, fileName: "", mediaType: "" };
  if (!("attachment" in inside)) return plain;
  const [, mediaType, data] = /^data:([^,]*?);base64,(.*)$/s.exec(inside.attachment) ?? [];
  const file = fromBase64(data) ?? refuse("fields");
  return { ...plain, file, fileName: wellFormed(inside.attachment_name), mediaType: wellFormed(mediaType) };
}

const hasFields = (value, needed, allowed) =>
  isObject(value) &&
  needed.every((name) => Object.hasOwn(value, name)) &&
  Object.keys(value).every((name) => [...needed, ...allowed].includes(name));

/** Half of a surrogate pair is no character: it becomes U+FFFD. */
const wellFormed = (text) => fromUtf8(utf8(text));

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const isArray = (value, length) => Array.isArray(value) && value.length === length;

async function inflate(packed, maxBytes) {
  const reader = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const chunks = [];
  for (let size = 0; ; ) {
    const { done, value } = await reader.read().catch(() => refuse("incomplete"));
    if (done) return new Uint8Array(await new Blob(chunks).arrayBuffer());
    size += value.length;
    if (size > maxBytes) refuse("size");
    chunks.push(value);
  }
}
