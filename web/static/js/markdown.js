/** Markdown as elements, built one by one: nothing of a message is ever parsed as HTML. */

const MAX_LENGTH = 65_536; // longer ones are shown as text: rendering must not hold the page up
const MAX_DEPTH = 8;
const SCHEMES = ["http:", "https:", "mailto:"];
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const HEADING = /^(#{1,6})[ \t]+(.*)$/;
const TABLE = /^[ \t]*\|?[ \t:|-]*-[ \t:|-]*$/;
const INLINE = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/,
    /`([^`]+)`/,
    /\*\*([^*]+(?:\*(?!\*)[^*]+\*(?!\*)[^*]*)*)\*\*|__([^_]+)__/,
    /\*([^*\s][^*]*)\*|\b_([^_]+)_\b/,
    /\[([^[\]]*)\]\(([^()\s]+)(?:[ \t]+"[^"]*")?\)/,
    /<((?:https?:\/\/|mailto:)[^<>\s]+)>/,
  ].map((part) => part.source).join("|"),
  "g",
);

/** @param {string} source @param {Element} into */
export function renderMarkdown(source, into) {
  if (source.length > MAX_LENGTH) return add(into, "pre", source);
  blocks(source.split(/\r\n?|\n/), into, 0);
}

function add(parent, name, content = "") {
  const element = parent.appendChild(document.createElement(name));
  element.textContent = content;
  return element;
}

function blocks(lines, into, depth) {
  const startsBlock = (line) => HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^(>|```|~~~)/.test(line);
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const upTo = (ends, from = at + 1) => {
      const end = lines.slice(from).findIndex(ends);
      return end < 0 ? lines.length : from + end;
    };
    let end = at + 1;
    if (!line.trim()) {
      at = end;
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) inline(heading[2], add(into, `h${heading[1].length}`), 0);
    else if (RULE.test(line)) add(into, "hr");
    else if (/^(```|~~~)/.test(line)) {
      end = upTo((next) => next.startsWith(line.slice(0, 3)));
      add(add(into, "pre"), "code", lines.slice(at + 1, end).join("\n"));
      end += 1;
    } else if (line.startsWith(">") && depth < MAX_DEPTH) {
      end = upTo((next) => !next.startsWith(">"));
      blocks(lines.slice(at, end).map((quoted) => quoted.replace(/^> ?/, "")), add(into, "blockquote"), depth + 1);
    } else if (ITEM.test(line) && depth < MAX_DEPTH) {
      end = list(lines, at, into, depth);
    } else if (line.includes("|") && lines[end]?.includes("|") && TABLE.test(lines[end])) {
      end = upTo((next) => !next.includes("|"));
      table(lines.slice(at, end), into);
    } else {
      end = upTo((next) => !next.trim() || startsBlock(next));
      inline(lines.slice(at, end).map((part) => part.trim()).join("\n"), add(into, "p"), 0);
    }
    at = end;
  }
}

/** @returns {number} the line after the list */
function list(lines, at, into, depth) {
  const [, , marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const element = add(into, ordered ? "ol" : "ul");
  if (ordered && parseInt(marker) !== 1) element.start = parseInt(marker);
  const margin = lines[at].search(/\S/);
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length !== margin || /\d/.test(item[2]) !== ordered) break;
    const inside = [item[3]];
    for (at += 1; at < lines.length; at += 1) {
      const indent = lines[at].search(/\S/);
      if (indent >= 0 && indent <= margin) break;
      inside.push(lines[at].slice(Math.min(Math.max(indent, 0), margin + item[2].length + 1)));
    }
    const only = inside.every((line, index) => !index || !line.trim());
    if (only) inline(item[3], add(element, "li"), 0);
    else blocks(inside, add(element, "li"), depth + 1);
  }
  return at;
}

function table([head, , ...rows], into) {
  const element = add(into, "table");
  [head, ...rows].forEach((line, index) => {
    const row = add(element, "tr");
    for (const cell of line.trim().replace(/^\||\|$/g, "").split("|")) inline(cell.trim(), add(row, index ? "td" : "th"), 0);
  });
}

function inline(source, into, depth) {
  let from = 0;
  for (const found of depth > MAX_DEPTH ? [] : source.matchAll(INLINE)) {
    const [all, escaped, code, strong, strong2, emphasis, emphasis2, label, target, address] = found;
    into.append(source.slice(from, found.index));
    from = found.index + all.length;
    if (escaped) into.append(escaped);
    else if (code) add(into, "code", code);
    else if (strong ?? strong2) inline(strong ?? strong2, add(into, "strong"), depth + 1);
    else if (emphasis ?? emphasis2) inline(emphasis ?? emphasis2, add(into, "em"), depth + 1);
    else link(label ?? address, target ?? address, into, all);
  }
  into.append(source.slice(from));
}

function link(label, target, into, source) {
  if (!SCHEMES.includes(schemeOf(target))) return into.append(source);
  const element = add(into, "a", label);
  element.href = target;
  element.rel = "noopener noreferrer nofollow";
  element.target = "_blank"; // the message stays
}

function schemeOf(target) {
  try {
    return new URL(target).protocol;
  } catch {
    return ""; // relative, or no address at all
  }
}
