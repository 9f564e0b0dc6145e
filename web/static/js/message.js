/** A message that the server has shown: one press copies it. */

import { offerCopy } from "./clipboard.js";
import { find } from "./page.js";

const message = find("#message");
find("[data-scripted]").hidden = false;
offerCopy(message.textContent, message);
