/**
 * End-to-end encryption in the PrivateBin v2 document format (its "Encryption format" wiki page): AES-256-GCM over deflated JSON,
 * keyed by PBKDF2-SHA256 of a random key followed by the passphrase, its parameters authenticated. `client/mayfly/envelope.py` is
 * the same in Python; both are held to the same vectors.
 */

import { fromBase64, fromUtf8, toBase64, utf8 } from "./bytes.js";
import { PASSPHRASE_ROUNDS, ROUNDS, pbkdf2 } from "./derive.js";
import { EnvelopeError } from "./errors.js";

const MIN_ROUNDS = 10_000;
const MAX_ROUNDS = 10_000_000;
const TAG_BYTES = 16;
const FORMATS = { plaintext: "text", syntaxhighlighting: "text", markdown: "markdown" };

/**
 * What is inside a document: a text, or a file with its name and media type.
 * @typedef {{text: string, format: "text"|"markdown", file: ?Uint8Array, fileName: string, mediaType: string}} Plain
 */

/** @returns {Uint8Array} a random key for one document, 32 bytes */
export const newKey = () => crypto.getRandomValues(new Uint8Array(32));

/**
 * Encrypt for whoever has the key, and the passphrase if there is one.
 * @param {Plain} plain
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

/**
 * Open a document.
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
  let packed;
  try {
    packed = await crypto.subtle.decrypt(gcm(iv, document.adata), cipher, sealed);
  } catch {
    throw new EnvelopeError("wrong-key");
  }
  const content = compression === "zlib" ? await inflate(new Uint8Array(packed), maxBytes) : new Uint8Array(packed);
  return unpack(content, format);
}

function checked(document) {
  if (!isObject(document)) throw new EnvelopeError("fields");
  if (document.v !== 2) throw new EnvelopeError("version");
  if (!hasFields(document, ["v", "adata", "ct"], ["meta"])) throw new EnvelopeError("fields");
  const { adata, ct } = document;
  if (!Array.isArray(adata) || adata.length !== 4 || !Array.isArray(adata[0]) || adata[0].length !== 8) {
    throw new EnvelopeError("parameters");
  }
  const [ivText, saltText, rounds, keyBits, tagBits, algorithm, mode, compression] = adata[0];
  if (keyBits !== 256 || tagBits !== 128 || algorithm !== "aes" || mode !== "gcm") throw new EnvelopeError("cipher");
  if (!Number.isInteger(rounds) || rounds < MIN_ROUNDS || rounds > MAX_ROUNDS) throw new EnvelopeError("rounds");
  const [, format, ...flags] = adata;
  if (!["zlib", "none"].includes(compression) || !flags.every((flag) => [0, 1].includes(flag))) throw new EnvelopeError("parameters");
  if (typeof format !== "string" || !Object.hasOwn(FORMATS, format)) throw new EnvelopeError("parameters");
  const [iv, salt, sealed] = [ivText, saltText, ct].map(fromBase64);
  if (!iv || !salt || !sealed) throw new EnvelopeError("parameters");
  const known = [12, 16].includes(iv.length) && salt.length >= 8 && salt.length <= 64 && sealed.length > TAG_BYTES;
  if (!known) throw new EnvelopeError("length");
  return { iv, salt, rounds, compression, format: FORMATS[format], sealed };
}

function unpack(content, format) {
  let inside;
  try {
    inside = JSON.parse(fromUtf8(content));
  } catch {
    throw new EnvelopeError("fields");
  }
  if (!isObject(inside) || !hasFields(inside, ["paste"], ["attachment", "attachment_name"])) throw new EnvelopeError("fields");
  if (!Object.values(inside).every((value) => typeof value === "string")) throw new EnvelopeError("fields");
  if ("attachment" in inside !== "attachment_name" in inside) throw new EnvelopeError("fields");
  const plain = { text: wellFormed(inside.paste), format, file: null, fileName: "", mediaType: "" };
  if (!("attachment" in inside)) return plain;
  const [, mediaType, data] = /^data:([^,]*?);base64,(.*)$/s.exec(inside.attachment) ?? [];
  const file = fromBase64(data);
  if (!file) throw new EnvelopeError("fields");
  return { ...plain, file, fileName: wellFormed(inside.attachment_name), mediaType: wellFormed(mediaType) };
}

const hasFields = (object, needed, allowed) =>
  needed.every((name) => Object.hasOwn(object, name)) &&
  Object.keys(object).every((name) => needed.includes(name) || allowed.includes(name));

/** Half of a surrogate pair is no character: it becomes U+FFFD. */
const wellFormed = (text) => fromUtf8(utf8(text));

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const gcm = (iv, adata) => ({ name: "AES-GCM", iv, additionalData: utf8(JSON.stringify(adata)), tagLength: 128 });

async function cipherKey(key, passphrase, salt, rounds) {
  const secret = await pbkdf2(new Uint8Array([...key, ...utf8(passphrase)]), salt, rounds);
  return crypto.subtle.importKey("raw", secret, "AES-GCM", false, ["encrypt", "decrypt"]);
}

async function deflate(content) {
  const stream = new Blob([content]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function inflate(packed, maxBytes) {
  const chunks = [];
  let size = 0;
  try {
    for await (const chunk of readerOf(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw")))) {
      size += chunk.length;
      if (size > maxBytes) throw new EnvelopeError("size");
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof EnvelopeError ? error : new EnvelopeError("incomplete");
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** ReadableStream has no asynchronous iterator everywhere. */
async function* readerOf(stream) {
  const reader = stream.getReader();
  for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
}
