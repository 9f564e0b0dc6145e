/** A button that acts when it is held for a second: what no scanner does, and what a stray click does not do either. */

const HOLD_MS = 1000;

/**
 * @param {HTMLButtonElement} button
 * @param {() => void} act
 * @param {() => void} explain  called when it was only clicked
 */
export function onHold(button, act, explain) {
  let timer = 0;
  let held = false; // letting go after the second is no click
  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    button.classList.remove("holding");
  };
  const begin = (event) => {
    // What a script dispatches is not trusted.
    if (!event.isTrusted || timer) return;
    button.classList.add("holding");
    held = false;
    timer = setTimeout(() => {
      stop();
      held = true;
      act();
    }, HOLD_MS);
  };
  button.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.isPrimary) begin(event);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave", "keyup", "blur"]) button.addEventListener(end, stop);
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (!event.repeat) begin(event);
  });
  button.addEventListener("keyup", (event) => {
    if (!held && (event.key === "Enter" || event.key === " ")) explain();
  });
  button.addEventListener("click", (event) => {
    event.preventDefault();
    if (!held) explain();
    held = false;
  });
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}
