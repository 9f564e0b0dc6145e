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
  const on = (kind, listener) => button.addEventListener(kind, listener);
  const onKey = (kind, listener) => on(kind, (event) => (event.key === "Enter" || event.key === " ") && listener(event));
  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    button.classList.remove("holding");
  };
  const begin = (event) => {
    if (!event.isTrusted || timer) return; // what a script dispatches is not trusted
    button.classList.add("holding");
    held = false;
    timer = setTimeout(() => {
      stop();
      held = true;
      act();
    }, HOLD_MS);
  };
  on("pointerdown", (event) => event.button === 0 && event.isPrimary && begin(event));
  onKey("keydown", (event) => {
    event.preventDefault();
    if (!event.repeat) begin(event);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave", "keyup", "blur"]) on(end, stop);
  onKey("keyup", () => held || explain());
  on("click", (event) => {
    event.preventDefault();
    if (!held) explain();
    held = false;
  });
  on("contextmenu", (event) => event.preventDefault());
}
