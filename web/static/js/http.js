/** Requests to this server, and only to it. */

/** No answer came: nobody knows whether the request arrived. */
export class Lost extends Error {}

/**
 * @typedef {{status: number, body: object, retryAfter: number}} Answer  `retryAfter` in seconds, 0 if none was named
 * @param {string} method @param {string} path
 * @param {{json?: object, key?: string, onUpload?: (part: number) => void, type?: "json"|"document"}} options
 *   `key` is the Idempotency-Key; with type "document" the body is the page, parsed
 * @returns {Promise<Answer>}
 * @throws {Lost}
 */
export function ask(method, path, { json, key, onUpload, type = "json" } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = type;
    request.timeout = 60_000;
    request.setRequestHeader("Accept", type === "json" ? "application/json" : "text/html");
    if (json) request.setRequestHeader("Content-Type", "application/json");
    if (key) request.setRequestHeader("Idempotency-Key", key);
    if (onUpload) request.upload.onprogress = ({ loaded, total }) => onUpload(loaded / total);
    request.onload = () => {
      const retryAfter = Number(request.getResponseHeader("Retry-After"));
      resolve({ status: request.status, body: request.response ?? {}, retryAfter });
    };
    request.onerror = request.ontimeout = () => reject(new Lost());
    request.send(json && JSON.stringify(json));
  });
}
