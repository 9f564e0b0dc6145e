/** One file for a message: picked, dropped or pasted. */

import { find, tell } from "./page.js";
import { text } from "./texts.js";

/**
 * @param {HTMLFormElement} form  where files may be pasted; dropped they may be anywhere, lest the browser leaves for them
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
    if (find("#writing").hidden) return;
    if (input.disabled) return tell(text("file-needs-encryption"), true);
    find("details", form).open = true;
    input.files = files;
    check();
  };
  input.addEventListener("change", check);
  form.addEventListener("paste", (event) => {
    const { types, files } = event.clipboardData;
    const words = types.includes("text/plain") && types.includes("text/html"); // offices add a picture of what was copied
    if (!words) take(event, files);
  });
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => take(event, event.dataTransfer.files));
  find("#take-away").addEventListener("click", () => {
    input.value = "";
    check();
    input.focus();
  });
}
