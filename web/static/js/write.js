/** The page to write a message: encrypt here unless told otherwise, make the link, copy it, all in one act. */

import { utf8 } from "./bytes.js";
import { copy } from "./clipboard.js";
import { capable } from "./derive.js";
import { encodeKey, encrypt, newKey } from "./encrypt.js";
import { takeFiles } from "./files.js";
import { Lost, ask } from "./http.js";
import { showLink } from "./made.js";
import { during, find, refusal, tell, wait } from "./page.js";
import { proofOf } from "./proof.js";
import { text } from "./texts.js";

const form = find("#write");
const { message, expires_in, views, passphrase, format, sealed, attached, audience, policy } = form.elements;
const button = find("[type=submit]", form);
const able = capable("CompressionStream");
const maxBytes = Number(form.dataset.maxBytes);

/** Say who will be able to read what is being written. A record is the server's to encrypt: it shows each reader another view. */
function describe() {
  const record = format.value === "record";
  if (able && record !== sealed.disabled) sealed.checked = !record;
  sealed.disabled = !able || record;
  if (!sealed.checked && attached.files.length) {
    attached.value = "";
    tell(text("file-needs-encryption"), true);
  }
  attached.disabled = !sealed.checked;
  message.required = !attached.files.length;
  find("#take-away").hidden = message.required;
  const who = `${sealed.checked ? "sealed" : "server"}${passphrase.value ? "-passphrase" : ""}`;
  find("#audience").textContent = text(audience ? `signed-in-${who}` : `audience-${who}`);
  find("#explained-sealed").hidden = !sealed.checked;
  find("#explained-server").hidden = find("#format-hint").hidden = sealed.checked;
}

async function draft() {
  const common = { expires_in: expires_in.value };
  for (const field of [views, audience, policy]) if (field?.value) common[field.name] = field.value;
  const secret = passphrase.value.normalize("NFC"); // an accent typed on another keyboard is the same accent
  if (!sealed.checked) {
    return { key: "", json: { message: message.value, format: format.value, ...(secret && { passphrase: secret }), ...common } };
  }
  const file = attached.files[0];
  if (utf8(message.value).length + (file?.size ?? 0) > maxBytes) throw new Error(text("too-large"));
  const plain = { text: message.value, format: format.value, file: null, fileName: "", mediaType: "" };
  if (file) {
    plain.file = new Uint8Array(await file.arrayBuffer());
    plain.fileName = file.name;
    plain.mediaType = file.type || "application/octet-stream";
  }
  const key = newKey();
  const [document, proof] = await Promise.all([encrypt(plain, key, secret), proofOf(key, secret)]);
  return { key: `#${encodeKey(key)}`, json: { document, proof, needs_passphrase: Boolean(secret), ...common } };
}

/** @returns {Promise<{link: string, made: object}>} @throws {Error} with the sentence to show */
async function create() {
  const { key, json } = await during(text("encrypting"), draft());
  const bar = find("[data-progress]");
  const sending = ask("POST", new URL(form.action).pathname, { json, onUpload: (part) => (bar.value = part) });
  const answer = await during(text("sending"), sending).catch((error) => {
    throw error instanceof Lost ? new Error(`${text("no-answer")} ${text("draft-kept")}`) : error;
  });
  if (answer.status !== 201) throw new Error(`${refusal(answer)} ${text("draft-kept")}`);
  return { link: answer.body.link + key, made: answer.body };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.inert) return;
  tell("");
  form.inert = true;
  const creating = create();
  const copying = copy(creating.then(({ link }) => link)); // now, while the gesture counts
  try {
    const { link, made } = await creating;
    await Promise.race([copying, wait(1000)]); // a clipboard that asks somebody first must not hold the link back
    showLink(link, made, find("#audience").textContent, copying);
    form.reset();
    describe();
  } catch (error) {
    tell(error.message, true);
  }
  form.inert = false;
  if (!find("#writing").hidden) button.focus();
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

for (const part of document.querySelectorAll("[data-scripted]")) part.hidden = false;
sealed.checked = sealed.defaultChecked = able;
find("#incapable").hidden = able;
form.addEventListener("input", describe);
takeFiles(form, attached, maxBytes, describe);
describe();
