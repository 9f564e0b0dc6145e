/** Copying, also of what is still being made. */

import { find, tell } from "./page.js";
import { text } from "./texts.js";

/**
 * Must be called inside the gesture: the clipboard is asked for now, its content may come later.
 * @param {string|Promise<string>} words
 * @returns {Promise<boolean>} whether they are on the clipboard
 */
export async function copy(words) {
  const item = Promise.resolve(words).then((ready) => new Blob([ready], { type: "text/plain" }));
  item.catch(() => {}); // whoever makes the words tells of it
  try {
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": item })]);
    return true;
  } catch {
    return item.then((blob) => blob.text()).then((ready) => navigator.clipboard.writeText(ready)).then(() => true, () => false);
  }
}

/** Say whether what `element` shows was copied; what may not be is selected. @param {string} said  the text that says so */
export function tellCopied(copied, element, said = "copied") {
  tell(text(copied ? said : "copy-failed"), !copied);
  if (!copied) getSelection().selectAllChildren(element);
}

/** Let the button #copy copy what `element` shows. */
export const offerCopy = (words, element, said) =>
  find("#copy").addEventListener("click", async () => tellCopied(await copy(words), element, said));
