/** A message, opened: shown, copied, saved, and its lease counted down. */

import { copy, select } from "./clipboard.js";
import { ask } from "./http.js";
import { beginAt, copyOf, find, moment, tell } from "./page.js";
import { plural, text } from "./texts.js";

/**
 * @param {import("./decrypt.js").Plain} plain
 * @param {{expires_at: string, views_left: ?number}} about
 * @param {{lease: string, until: number}} kept  the lease, and when it lapses
 * @param {() => void} forget
 */
export function showMessage(plain, about, kept, forget) {
  document.body.classList.add("reading");
  find("#main").replaceChildren(copyOf("#opened-view"));
  const { views_left: left } = about;
  find("#left").textContent = left === null ? text("until", { at: moment(about.expires_at) }) : left ? plural("views-left", left) : text("last-view");
  showText(plain);
  if (plain.file) showFile(plain);
  beginAt(find("#main h1"));
  countDown(left === 0, kept, forget);
}

function showText(plain) {
  find("#message").textContent = plain.text;
  if (plain.format === "markdown") showMarkdown(plain.text).catch(() => {}); // the text stays, if the module is not to be had
  find("#message").hidden = find("#copy").hidden = !plain.text;
  find("#copy").addEventListener("click", async () => {
    const done = await copy(plain.text);
    tell(text(done ? "copied" : "copy-failed"), !done);
    if (!done) select(find("#message"));
  });
}

async function showMarkdown(source) {
  const { renderMarkdown } = await import("./markdown.js");
  const rich = document.createElement("div");
  renderMarkdown(source, rich);
  const plain = find("#message");
  for (const name of ["id", "dir", "tabindex"]) rich.setAttribute(name, plain.getAttribute(name));
  rich.className = "message markdown";
  plain.replaceWith(rich);
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
export function safeName(name) {
  const bare = name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "").replace(/[/\\:*?"<>|]/g, "_").replace(/^[.\s]+|[.\s]+$/g, "");
  return Array.from(bare).slice(-100).join("") || "file";
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
    place.hidden = true;
    tell(words);
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
