/** What scripts say to people, in the page's language: the texts of `web/templates/texts.html`. */

const texts = new Map(
  Array.from(document.getElementById("texts").content.querySelectorAll("[data-text]"), (element) => [
    element.dataset.text,
    element.textContent,
  ]),
);
const rules = new Intl.PluralRules(document.documentElement.lang);
const numbers = new Intl.NumberFormat(document.documentElement.lang);

/**
 * A text with its {placeholders} filled in.
 * @param {string} key @param {Object<string, string|number>} params @returns {string}
 * @throws {Error} if there is no such text, or it has a placeholder that is not in `params`
 */
export function text(key, params = {}) {
  if (!texts.has(key)) throw new Error(`no text ${key}`);
  return texts.get(key).replace(/\{(\w+)\}/g, (_, name) => {
    if (!Object.hasOwn(params, name)) throw new Error(`no ${name} for the text ${key}`);
    return String(params[name]);
  });
}

/**
 * A text that depends on a number, {n}, in the plural form that the language has for it.
 * @param {string} key @param {number} n @returns {string} @throws {Error} like `text`
 */
export function plural(key, n) {
  const form = `${key}-${rules.select(n)}`;
  return text(texts.has(form) ? form : `${key}-other`, { n: numbers.format(n) });
}
