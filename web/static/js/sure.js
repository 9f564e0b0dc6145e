/** A button that asks once more, in place, before it does what cannot be undone. */

import { announce } from "./page.js";
import { text } from "./texts.js";

/**
 * A double click is one press.
 * @param {HTMLButtonElement} button @param {() => void} act
 */
export function askFirst(button, act) {
  const label = button.textContent;
  let timer;
  button.addEventListener("click", (event) => {
    event.preventDefault();
    if (event.detail > 1) return;
    const sure = button.textContent !== label;
    clearTimeout(timer);
    button.textContent = sure ? label : text("sure");
    if (sure) return act();
    announce(text("sure"));
    timer = setTimeout(() => (button.textContent = label), 8000);
  });
}
