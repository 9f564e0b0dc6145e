/** A button that acts when it is held for a second: what no scanner does, and what a stray click does not do either. */

const HOLD_MS = 1000;

/**
 * @param {HTMLButtonElement} button
 * @param {() => void} act
 * @param {() => void} explain  called when it was only clicked
 */
export function onHold(button, act, explain) {
  let timer = 0;
  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    button.classList.remove("holding");
  };
  const begin = (event) => {
    // What a script dispatches is not trusted.
    if (!event.isTrusted || timer) return;
    button.classList.add("holding");
    timer = setTimeout(() => {
      stop();
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
    if (event.key === "Enter" || event.key === " ") explain();
  });
  button.addEventListener("click", (event) => {
    event.preventDefault();
    explain();
  });
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}
