/**
 * Signing in on the way to a message: the part of its link after #, the key, is kept. Browsers give it to the page that a form
 * leads to, if its address has none of its own, and never send it.
 */

const form = document.querySelector("#sign-in");
const fragment = location.hash.slice(1) || history.state?.fragment; // read.js puts it there
if (fragment) form.action += `#${fragment}`;
