/** A message that the server has shown: one press copies it. */

import { copy, select } from "./clipboard.js";
import { find, tell } from "./page.js";
import { text } from "./texts.js";

find("[data-scripted]").hidden = false;
find("#copy").addEventListener("click", async () => {
  const message = find("#message");
  const done = await copy(message.textContent);
  tell(text(done ? "copied" : "copy-failed"), !done);
  if (!done) select(message);
});
