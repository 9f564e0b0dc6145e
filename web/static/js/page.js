/** What the pages share: finding, telling and waiting. */

import { plural, text } from "./texts.js";

/** @param {string} selector @param {ParentNode} within @returns {?Element} */
export const find = (selector, within = document) => within.querySelector(selector);

/** @param {number} milliseconds @returns {Promise<void>} */
export const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Say something to who cannot see it, in the live region, which never leaves the page. @param {string} words */
export const announce = (words) => (find("#live").textContent = words);

/** Say something to everyone, in the note in sight too. @param {string} words @param {boolean} problem */
export function tell(words, problem = false) {
  announce(words);
  for (const note of document.querySelectorAll("[data-note]")) {
    note.textContent = words;
    note.classList.toggle("problem", problem);
  }
}

/**
 * Show that something takes its time, once it has taken 300 ms.
 * @template T @param {string} words @param {Promise<T>} work @returns {Promise<T>} @throws what `work` throws
 */
export async function during(words, work) {
  const bar = find("[data-progress]");
  const timer = setTimeout(() => {
    tell(words);
    if (bar) bar.hidden = false;
  }, 300);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
    if (bar) bar.hidden = true;
    bar?.removeAttribute("value");
    if (find("#live").textContent === words) tell("");
  }
}

/** What a template holds, to be put into the page. @param {string} selector @returns {DocumentFragment} */
export const copyOf = (selector) => find(selector).content.cloneNode(true);

/** Why the server refused, and what to do. @param {import("./http.js").Answer} answer @returns {string} */
export function refusal({ status, retryAfter }) {
  if (status === 413) return text("too-large");
  if (retryAfter) return plural(status === 429 ? "too-often" : "not-now", retryAfter);
  return text(status === 401 ? "signed-out" : "refused");
}

/** A new state of the page, which no address shows, begins at its heading. @param {Element} heading */
export function beginAt(heading) {
  document.title = `${heading.textContent} · Mayfly`;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
  for (const link of document.querySelectorAll(".languages a")) link.target = "_blank";
}
