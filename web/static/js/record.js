/** A record, opened: named texts, as the server shows them to this reader. `web/templates/message.html` says them alike. */

import { find } from "./page.js";
import { text } from "./texts.js";

const MASK = "••••";

/**
 * Show it where `showMessage` has left room. Of what holds nothing for this reader nothing was used up, and there is no lease.
 * @param {{record: Object<string, string>, masked: string[]}} about
 *   `masked` names the fields of which no more than an end is there
 */
export function showRecord({ record, masked }) {
  const list = document.createElement("dl");
  list.id = "message";
  list.className = "facts";
  list.append(...Object.entries(record).map(([name, words]) => pair(name, masked.includes(name) ? hidden(words) : [words])));
  find("#message").replaceWith(list);
  if (list.hasChildNodes()) return;
  list.remove();
  find("#left").textContent = text("record-nothing");
  find("#lease").hidden = true;
}

function pair(name, parts) {
  const [both, term, value, called] = ["div", "dt", "dd", "bdi"].map((tag) => document.createElement(tag));
  called.textContent = name;
  term.append(called);
  value.className = "value";
  value.dir = "auto";
  value.append(...parts);
  both.append(term, value);
  return both;
}

function hidden(words) {
  const mask = document.createElement("span");
  mask.ariaHidden = "true";
  mask.textContent = MASK;
  const said = document.createElement("small");
  said.textContent = text(words === MASK ? "record-hidden" : "record-rest-hidden");
  return [mask, `${words.slice(MASK.length)} `, said];
}
