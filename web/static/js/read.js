/**
 * The page that opens a message. What a reload needs (fragment, lease key, passphrase) waits in `history.state` alone, and only
 * until the lease lapses; the address bar shows the fragment no more.
 */

import { EnvelopeError, decodeKey, decrypt } from "./decrypt.js";
import { capable } from "./derive.js";
import { onHold } from "./hold.js";
import { Lost, ask } from "./http.js";
import { announce, beginAt, copyOf, during, find, refusal, tell, wait } from "./page.js";
import { proofOf } from "./proof.js";
import { showMessage } from "./shown.js";
import { plural, text } from "./texts.js";

const form = find("#open"); // null where nothing waits: the lease may still have it
const fragment = location.hash.slice(1);
let kept = fragment ? { fragment } : history.state ?? {};
if (kept.until < Date.now()) kept = {};
keep({});

/** @param {object} more  to be remembered until the lease lapses */
function keep(more) {
  kept = { ...kept, ...more };
  history.replaceState(kept, "", location.pathname + location.search);
}

const forget = () => keep((kept = {}));

/** @returns {?Uint8Array} null for what the server can read @throws {EnvelopeError} */
function readKey() {
  return kept.sealed !== undefined ? decodeKey(kept.fragment ?? "") : null;
}

/** Ask again while the lease answers the same: a lost connection loses nothing. */
async function insist(request) {
  for (let pause = 1000; ; pause *= 2) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof Lost) || Date.now() + pause > kept.until) throw error;
      tell(text("retrying"));
      await wait(pause);
    }
  }
}

async function open() {
  const key = readKey();
  const { lease, passphrase = "" } = kept;
  const json = key ? { proof: await during(text("checking"), proofOf(key, passphrase)) } : passphrase ? { passphrase } : {};
  if (!kept.until) keep({ until: Date.now() + kept.leaseSeconds * 1000 });
  const answer = await during(text("opening"), insist(() => ask("POST", location.pathname, { json, key: lease })));
  if (answer.status !== 200) return refuse(answer);
  const { body } = answer;
  keep({ until: Math.min(kept.until, Date.parse(body.expires_at)) });
  const plain = body.document
    ? await during(text("opening"), decrypt(body.document, key, passphrase, 8 * kept.maxBytes + 65_536))
    : { text: body.message ?? "", format: body.format, file: null };
  showMessage(plain, body, kept, forget);
  if (body.record) (await import("./record.js")).showRecord(body);
}

function refuse(answer) {
  const { status, body } = answer;
  kept = { fragment: kept.fragment };
  keep({});
  if (status === 404 || body.tries_left === 0) {
    find("#main").replaceChildren(copyOf("#gone-view"));
    return beginAt(find("#main h1"));
  }
  if (form) form.inert = false;
  if (!form || !body.tries_left) return tell(status === 403 ? text("proof-wrong") : refusal(answer), true);
  const { passphrase } = form.elements;
  passphrase.value = "";
  passphrase.setAttribute("aria-invalid", "true");
  passphrase.focus();
  tell(plural("sealed" in form.dataset ? "wrong-either" : "wrong-passphrase", body.tries_left), true);
}

async function act() {
  const { passphrase, idempotency_key } = form.elements;
  if (passphrase && !passphrase.value) {
    passphrase.focus();
    return tell(text("passphrase-first"), true);
  }
  if (form.inert) return;
  form.inert = true;
  const { sealed, leaseSeconds, maxBytes } = form.dataset;
  keep({ lease: idempotency_key.value, passphrase: passphrase?.value.normalize("NFC"), sealed, leaseSeconds, maxBytes });
  await attempt();
  form.inert = false;
}

async function attempt() {
  try {
    await open();
  } catch (error) {
    if (!(error instanceof EnvelopeError) && !(error instanceof Lost)) throw error;
    tell(text(error instanceof Lost ? "lost" : `envelope-${error.code}`), true);
  }
}

function prepare() {
  if ("sealed" in form.dataset && !capable("DecompressionStream")) return; // the page says what it takes
  form.hidden = false;
  for (const part of form.querySelectorAll("[data-scripted]")) part.hidden = false;
  find("#needs-script")?.remove();
  find("[type=submit]", form).classList.add("quiet");
  try {
    if ("sealed" in form.dataset) decodeKey(kept.fragment ?? "");
  } catch {
    form.hidden = true;
    return tell(text("envelope-fragment"), true);
  }
  for (const link of document.querySelectorAll(".languages a")) link.hash = kept.fragment ?? "";
  onHold(find("#hold"), act, () => announce((find("#hold-hint").textContent = text("hold-longer"))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.isTrusted && form.elements.open.checked) act();
  });
}

addEventListener("hashchange", () => location.reload()); // another link to it
if (form) prepare();
if (kept.until) attempt();
