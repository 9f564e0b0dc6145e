/**
 * Markdown as elements, built one by one: nothing of a message is ever parsed as HTML.
 *
 * Headings with #, paragraphs, nested lists, quotes, fenced code, rules and tables; strong, emphasis, code, and links to http(s)
 * and mailto. All else, images and HTML among it, stays the text that it is.
 */

const MAX_DEPTH = 8;
const HEADING = /^(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const FENCE = /^(```|~~~)/;
const ITEM = /^ {0,3}([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;
const TABLE = /^[ \t]*\|?[ \t:|-]*-[ \t:|-]*$/;
const INLINE = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/,
    /`([^`]+)`/,
    /(?<two>\*\*|__)((?:(?!\k<two>)[^])+[*_]?)\k<two>/,
    /\*([^*\s][^*]*)\*|\b_([^_]+)_\b/,
    /\[([^[\]]*)\]\(((?:https?:\/\/|mailto:)[^()\s]+)(?:[ \t]+"[^"]*")?\)/,
    /<((?:https?:\/\/|mailto:)[^<>\s]+)>/,
  ].map((part) => part.source).join("|"),
  "gi",
);

/** @param {string} source @returns {DocumentFragment} */
export function markdown(source) {
  const into = new DocumentFragment();
  blocks(source.split(/\r\n?|\n/), into, 0);
  return into;
}

function add(parent, name, content = "") {
  const element = parent.appendChild(document.createElement(name));
  element.textContent = content;
  return element;
}

function blocks(lines, into, depth) {
  if (depth > MAX_DEPTH) return add(into, "p", lines.join("\n"));
  const begins = (line) => [HEADING, RULE, FENCE, ITEM, /^>/].some((block) => block.test(line));
  for (let at = 0; at < lines.length; ) {
    const from = at++;
    const line = lines[from];
    const [heading, item] = [HEADING.exec(line), ITEM.exec(line)];
    const takeWhile = (belongs) => {
      while (at < lines.length && belongs(lines[at])) at += 1;
      return lines.slice(from, at);
    };
    if (!line.trim()) continue;
    if (heading) inline(heading[2], add(into, `h${heading[1].length}`));
    else if (RULE.test(line)) add(into, "hr");
    else if (FENCE.test(line)) {
      const code = takeWhile((next) => !next.startsWith(line.slice(0, 3))).slice(1);
      add(add(into, "pre"), "code", code.join("\n"));
      at += 1;
    } else if (line.startsWith(">")) {
      const quoted = takeWhile((next) => next.startsWith(">"));
      blocks(quoted.map((one) => one.replace(/^> ?/, "")), add(into, "blockquote"), depth + 1);
    } else if (item) {
      const [, ...inside] = takeWhile((next) => /^\s|^$/.test(next));
      const margin = inside.find((one) => one.trim())?.search(/\S/) ?? 0;
      const dedented = inside.map((one) => one.slice(Math.min(margin, one.search(/\S|$/))));
      blocks([item[2], ...dedented], add(listFor(item[1], into), "li"), depth + 1);
    } else if (line.includes("|") && lines[at]?.includes("|") && TABLE.test(lines[at])) {
      table(takeWhile((next) => next.includes("|")), into);
    } else {
      const paragraph = takeWhile((next) => next.trim() && !begins(next));
      inline(paragraph.map((part) => part.trim()).join("\n"), add(into, "p"));
    }
  }
}

/** The list that an item goes on, or else a new one. */
function listFor(marker, into) {
  const number = parseInt(marker);
  const name = isNaN(number) ? "ul" : "ol";
  if (into.lastChild?.localName === name) return into.lastChild;
  const list = add(into, name);
  if (number !== 1 && name === "ol") list.start = number;
  return list;
}

function table([head, , ...rows], into) {
  const element = add(into, "table");
  [head, ...rows].forEach((line, index) => {
    const row = add(element, "tr");
    for (const cell of line.trim().replace(/^\||\|$/g, "").split("|")) inline(cell.trim(), add(row, index ? "td" : "th"));
  });
}

function inline(source, into, depth = 0) {
  let from = 0;
  for (const found of depth > MAX_DEPTH ? [] : source.matchAll(INLINE)) {
    const [all, escaped, code, , strong, emphasis, emphasis2, label, target, address] = found;
    into.append(source.slice(from, found.index));
    from = found.index + all.length;
    if (escaped) into.append(escaped);
    else if (code) add(into, "code", code);
    else if (strong) inline(strong, add(into, "strong"), depth + 1);
    else if (emphasis ?? emphasis2) inline(emphasis ?? emphasis2, add(into, "em"), depth + 1);
    else {
      const link = add(into, "a", label ?? address);
      // In a tab of its own: the message stays.
      Object.assign(link, { href: target ?? address, rel: "noopener noreferrer nofollow", target: "_blank" });
    }
  }
  into.append(source.slice(from));
}
