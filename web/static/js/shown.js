/** A message, opened: shown, copied, saved, its lease counted down. */

import { offerCopy } from "./clipboard.js";
import { ask } from "./http.js";
import { beginAt, copyOf, find, tell } from "./page.js";
import { plural, text } from "./texts.js";

const MAX_MARKDOWN = 65_536; // longer is shown as text: rendering must not hold the page up

/**
 * @param {import("./decrypt.js").Plain} plain
 * @param {{expires_at: string, views_left: ?number}} about
 * @param {{lease: string, until: number}} kept  the lease, and when it lapses
 * @param {() => void} forget
 */
export function showMessage(plain, about, kept, forget) {
  document.body.classList.add("reading");
  const end = find("main time")?.textContent ?? about.expires_at; // the server's page has said it in words
  find("#main").replaceChildren(copyOf("#opened-view"));
  const left = about.views_left;
  const more = left === null ? text("until", { at: end }) : left ? plural("views-left", left) : text("last-view");
  find("#left").textContent = more;
  showText(plain);
  if (plain.file) showFile(plain);
  beginAt(find("#main h1"));
  countDown(left === 0, kept, forget);
}

function showText({ text: words, format }) {
  const message = find("#message");
  message.textContent = words;
  message.hidden = find("#copy").hidden = !words;
  offerCopy(words, message);
  if (format === "markdown" && words.length <= MAX_MARKDOWN) showMarkdown(words, message);
}

async function showMarkdown(source, message) {
  const module = await import("./markdown.js").catch(() => null);
  if (!module) return; // not to be had: the text stays
  message.replaceChildren(module.markdown(source));
  message.classList.add("markdown");
}

function showFile({ file, fileName, mediaType }) {
  find("#file").hidden = false;
  find("#file-name").textContent = fileName;
  find("#file-type").textContent = mediaType;
  find("#file-size").textContent = plural("bytes", file.length);
  const link = find("#save");
  // Never the sender's media type: a document of ours must not be made of what they sent.
  link.href = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
  link.download = safeName(fileName);
}

/** A file name that names a file and nothing else: no path, no control or direction character, no leading dot. */
function safeName(name) {
  const bare = name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "").replace(/[/\\:*?"<>|]/g, "_");
  const end = Array.from(bare).slice(-100).join(""); // where the extension is
  return end.replace(/^[.\s]+|[.\s]+$/g, "") || "file";
}

function countDown(last, { lease, until }, forget) {
  const place = find("#lease");
  const tick = () => {
    const seconds = Math.ceil((until - Date.now()) / 1000);
    if (seconds > 0) return (find("#countdown").textContent = plural("lease", seconds));
    end(text("lease-over"));
  };
  const end = (words) => {
    clearInterval(timer);
    forget();
    if (!place.hidden) tell(words);
    place.hidden = true;
  };
  const timer = setInterval(tick, 1000);
  tick();
  find("#destroy").hidden = !last;
  find("#destroy").addEventListener("click", async () => {
    const { status } = await ask("DELETE", location.pathname, { key: lease }).catch(() => ({}));
    if (status === 204 || status === 404) end(text("destroyed"));
    else tell(text("no-answer"), true);
  });
}
