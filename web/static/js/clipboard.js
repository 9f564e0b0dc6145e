/** Copying, also of what is still being made. */

/**
 * Must be called inside the gesture: the clipboard is asked for now, its content may come later.
 * @param {string|Promise<string>} words
 * @returns {Promise<boolean>} whether they are on the clipboard
 */
export async function copy(words) {
  const item = Promise.resolve(words).then((ready) => new Blob([ready], { type: "text/plain" }));
  item.catch(() => {}); // whoever makes the words tells of it
  try {
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": item })]);
    return true;
  } catch {
    return item.then((blob) => blob.text()).then((ready) => navigator.clipboard.writeText(ready)).then(() => true, () => false);
  }
}

/** Select all of an element, for those whose clipboard we may not use. @param {Element} element */
export const select = (element) => getSelection().selectAllChildren(element);
