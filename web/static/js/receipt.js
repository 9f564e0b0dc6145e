/** The receipt, live: the page is fetched again when what it tells has changed. */

import { ask } from "./http.js";
import { announce, find, tell } from "./page.js";
import { askFirst } from "./sure.js";
import { text } from "./texts.js";

const FIRST_PAUSE = 3000;
const LAST_PAUSE = 30_000;
let known = "";
let pause = FIRST_PAUSE;
let timer;

async function look() {
  const { status, body } = document.hidden ? {} : await ask("GET", location.pathname).catch(() => ({}));
  const found = JSON.stringify(body);
  if (status === 200 && found !== known) {
    if (known) await renew("GET");
    known = found;
    pause = FIRST_PAUSE;
  }
  if (body?.views_left === 0) return;
  clearTimeout(timer);
  timer = setTimeout(look, pause);
  pause = Math.min(pause * 1.2, LAST_PAUSE);
}

/** Show the receipt as the server's own page tells it. */
async function renew(method) {
  const { status, body } = await ask(method, location.pathname + location.search, { type: "document" }).catch(() => ({}));
  if (status !== 200) return tell(text("no-answer"), true);
  const main = find("#main");
  const focused = main.contains(document.activeElement);
  main.replaceChildren(...find("#main", body).childNodes);
  document.title = body.title;
  announce(find("#state").textContent);
  if (focused) {
    find("#state").tabIndex = -1;
    find("#state").focus();
  }
  prepare();
}

function prepare() {
  const form = find("#burning");
  if (!form) return;
  find(".tick", form).remove(); // the button asks once more instead
  askFirst(find("button", form), () => renew("DELETE"));
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  pause = FIRST_PAUSE;
  look();
});
prepare();
look();
