/**
 * Ask for this address once more, from a page of this server: then the session's cookie comes along. A link from another site
 * does not bring it (SameSite=Strict). The fragment, which may be a key, stays.
 */

const [address] = location.href.split("#");
// What tells the second address from the first: with the same one, a browser that has a fragment would not load anything.
if (!/[?&]$/.test(address)) location.replace(address + (address.includes("?") ? "&" : "?") + location.hash);
