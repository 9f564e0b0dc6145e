/** What the sender sees once the link is made, on the page where it was written. */

import { offerCopy, tellCopied } from "./clipboard.js";
import { ask } from "./http.js";
import { beginAt, copyOf, find, tell } from "./page.js";
import { askFirst } from "./sure.js";
import { text } from "./texts.js";

/**
 * @param {string} link  with its fragment
 * @param {object} made  the server's answer
 * @param {string} audience  who can read it
 * @param {Promise<boolean>} copying  whether it is on the clipboard
 */
export function showLink(link, made, audience, copying) {
  const place = find("#made");
  place.replaceChildren(copyOf("#made-view"));
  find("#gone").textContent = moment(made.expires_at);
  find("#who").textContent = audience;
  find("#receipt").textContent = made.receipt;
  find("#receipt").href = made.receipt + location.search; // where the language may stand
  const shown = find("#link");
  shown.textContent = link;
  offerCopy(link, shown, "link-copied");
  find("#share").hidden = !navigator.share;
  find("#share").addEventListener("click", () => navigator.share({ url: link }).catch(() => {}));
  askFirst(find("#burn"), () => burn(new URL(made.receipt).pathname));
  find("#again").addEventListener("click", () => {
    turn(true);
    place.replaceChildren();
    tell("");
    document.title = title;
    find("#message").focus();
  });
  const title = document.title;
  turn(false);
  beginAt(find("h1", place));
  copying.then((copied) => tellCopied(copied, shown, "link-copied"));
  draw(link).catch(() => (find("#qr").hidden = true)); // the library is not to be had
}

/** A moment as the server's pages write it. @param {string} iso @returns {string} */
function moment(iso) {
  const { lang } = document.documentElement;
  const locale = lang === "en" ? "en-GB" : lang;
  const date = new Date(iso).toLocaleDateString(locale, { dateStyle: "long", timeZone: "UTC" });
  return `${date}, ${new Date(iso).toLocaleTimeString(locale, { timeStyle: "short", timeZone: "UTC" })} UTC`;
}

function turn(writing) {
  find("#writing").hidden = !writing;
  find("#made").hidden = writing;
}

async function burn(receipt) {
  const { status } = await ask("DELETE", receipt).catch(() => ({}));
  if (status !== 200) return tell(text("no-answer"), true);
  for (const part of document.querySelectorAll("#made [data-alive]")) part.hidden = true;
  const heading = find("#made h1");
  heading.textContent = text("burned");
  beginAt(heading);
  tell(text("burned-for-all"));
}

async function draw(link) {
  const { generate } = await import("../vendor/lean-qr.js");
  // The margin of four modules that readers need is part of the drawing.
  generate(link).toCanvas(find("#qr"), { on: [0, 0, 0], off: [255, 255, 255], padX: 4, padY: 4 });
}
