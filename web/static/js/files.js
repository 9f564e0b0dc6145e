/** One file for a message: picked, dropped or pasted. */

import { find, tell } from "./page.js";
import { text } from "./texts.js";

/**
 * @param {HTMLFormElement} form  where files may be dropped and pasted
 * @param {HTMLInputElement} input  holds the file
 * @param {number} maxBytes
 * @param {() => void} changed
 */
export function takeFiles(form, input, maxBytes, changed) {
  const check = () => {
    const [file, second] = input.files;
    const refused = second ? "one-file" : file?.size > maxBytes ? "too-large" : "";
    if (refused) input.value = "";
    tell(refused ? text(refused) : file ? text("file-taken", { name: file.name }) : "", Boolean(refused));
    changed();
  };
  const take = (event, files) => {
    if (!files?.length) return;
    event.preventDefault();
    if (input.disabled) return tell(text("file-needs-encryption"), true);
    find("details", form).open = true;
    input.files = files;
    check();
  };
  input.addEventListener("change", check);
  form.addEventListener("paste", (event) => take(event, event.clipboardData.files));
  form.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  form.addEventListener("drop", (event) => take(event, event.dataTransfer.files));
  find("#take-away").addEventListener("click", () => {
    input.value = "";
    check();
    input.focus();
  });
}
