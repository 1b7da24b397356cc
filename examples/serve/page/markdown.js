// Markdown to elements, as a model writes it, while it writes. drawMarkdown() is what the rest of the page calls.
//
// A model's text is not to be trusted. It reaches the document as text nodes alone, never as HTML, and an address becomes a link
// only if it is http or https. No construct is nested deeper than `deepest`, and the time is linear in the text, whatever it is.
"use strict";

const deepest = 12;

function create(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function button(className, text) {
  const element = create("button", className, text);
  element.type = "button";  // not one that submits
  return element;
}

// ---- Blocks: each is {kind, lines, ...}, `lines` being its source.

const blank = line => !line.trim();
const indent = line => line.length - line.trimStart().length;
const fence = line => /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$/.exec(line);
const heading = line => /^ {0,3}(#{1,6})(?:\s(.*))?$/.exec(line);
const rule = line => indent(line) < 4 && /^(-{3,}|\*{3,}|_{3,})$/.test(line.replace(/\s/g, ""));
const quote = line => /^ {0,3}> ?/.exec(line);
const marker = line => /^\s*([-*+]|\d{1,9}[.)])(?:\s+|$)/.exec(line);

// The end of a formula that begins with this line and goes on in the next.
function formulaEnd(line) {
  const begin = /^\s*(\\\[|\$\$)/.exec(line), end = begin?.[1] === "$$" ? "$$" : "\\]";
  return begin && !line.includes(end, begin[0].length) ? end : null;
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return text.split(/(?<!\\)\|/).map(cell => cell.trim().replaceAll("\\|", "|"));
}
const delimiters = line => line.includes("-") && line.includes("|") && cells(line).every(cell => /^:?-+:?$/.test(cell));
const table = (lines, i) =>
  lines[i].includes("|") && i + 1 < lines.length && delimiters(lines[i + 1]) && cells(lines[i]).length === cells(lines[i + 1]).length;

// Whether line i ends the paragraph before it. A number may do so only as the beginning of a list: a year at a line's start does not.
function interrupts(lines, i) {
  const line = lines[i], item = marker(line);
  return fence(line) || heading(line) || rule(line) || quote(line) || formulaEnd(line) || table(lines, i) ||
    (item && item[0].length < line.length && (!/\d/.test(item[1]) || parseInt(item[1]) === 1));
}

function blocks(lines) {
  const found = [];
  for (let i = 0; i < lines.length;) {
    const begin = i, line = lines[i++];
    if (blank(line)) continue;
    let block = {kind: "paragraph"}, match;
    if ((match = fence(line))) {
      const end = new RegExp("^ {0,3}" + match[1][0] + "{" + match[1].length + ",}\\s*$");
      while (i < lines.length && !end.test(lines[i])) ++i;
      const space = new RegExp("^ {0," + indent(line) + "}");
      const text = lines.slice(begin + 1, i).map(l => l.replace(space, "")).join("\n");
      block = {kind: "code", language: match[2].trim().split(/\s/)[0], text};
      ++i;  // beyond the end where there is none yet
    } else if ((match = formulaEnd(line))) {  // shown as it is written: its stars and underscores are no emphasis
      while (i < lines.length && !blank(lines[i]) && !lines[i++].includes(match));
      block = {kind: "formula"};
    } else if ((match = heading(line))) {
      block = {kind: "heading", level: match[1].length, text: (match[2] ?? "").trim().replace(/(^|\s)#+$/, "")};
    } else if (rule(line)) {
      block = {kind: "rule"};
    } else if (quote(line)) {
      while (i < lines.length && (quote(lines[i]) || !(blank(lines[i]) || interrupts(lines, i)))) ++i;
      block = {kind: "quote", inner: lines.slice(begin, i).map(l => l.replace(/^ {0,3}> ?/, ""))};
    } else if ((match = marker(line))) {
      block = list(lines, begin);
      i = block.end;
    } else if (table(lines, begin)) {
      for (++i; i < lines.length && lines[i].includes("|") && !blank(lines[i]);) ++i;
      block = {kind: "table"};
    } else {
      while (i < lines.length && !blank(lines[i]) && !interrupts(lines, i)) ++i;
    }
    block.lines = lines.slice(begin, i);
    found.push(block);
  }
  return found;
}

// The list that begins at line i. What is indented more than a marker belongs to its item: models nest by two, three or four spaces.
function list(lines, i) {
  const ordered = line => /\d/.test(marker(line)[1]);
  const base = indent(lines[i]), kind = ordered(lines[i]), items = [];
  const start = kind ? parseInt(marker(lines[i])[1]) : 1;
  while (i < lines.length && marker(lines[i]) && !rule(lines[i]) && indent(lines[i]) <= base + 1 && ordered(lines[i]) === kind) {
    const width = Math.min(marker(lines[i])[0].length, indent(lines[i]) + marker(lines[i])[1].length + 1);
    const item = [lines[i++].slice(width)];
    let next = i;  // the first line that is not blank
    for (;;) {
      while (next < lines.length && blank(lines[next])) ++next;
      if (next === lines.length) break;
      const inside = indent(lines[next]) > base + 1, lazy = next === i && !marker(lines[next]) && !interrupts(lines, next);
      if (!inside && !lazy) break;
      for (; i <= next; ++i) item.push(lines[i].slice(Math.min(indent(lines[i]), width)));
      next = i;
    }
    items.push(item);
    if (next < lines.length && marker(lines[next]) && !rule(lines[next])) i = next;  // blank lines between items
  }
  return {kind: "list", ordered: kind, start, items, end: i};
}

// ---- Elements

// `growing`: more of this block may come. What is open at its end is drawn as if it were closed, so that it does not jump when it is.
function blockElement(block, depth, growing) {
  const inner = (lines, last = true) =>
    depth < deepest ? blockElements(lines, depth + 1, growing && last) : [create("p", "", lines.join("\n"))];
  switch (block.kind) {
    case "code": {
      const bar = create("div", "bar", create("span", "", block.language), button("copy", "Copy"));
      return create("div", "code", bar, create("pre", "", create("code", "", block.text)));
    }
    case "formula": return create("p", "formula", block.lines.join("\n"));
    case "heading": return create("h" + Math.min(block.level + 1, 6), "", ...inline(block.text, growing));  // h1 is the page's own
    case "rule": return create("hr");
    case "quote": return create("blockquote", "", ...inner(block.inner));
    case "list": {
      const items = block.items.map((item, i) => create("li", "", ...inner(item, i === block.items.length - 1)));
      const element = create(block.ordered ? "ol" : "ul", "", ...items);
      if (block.start !== 1) element.start = block.start;
      return element;
    }
    case "table": return tableElement(block.lines, growing);
    default:
      if (growing && block.lines[0].trimStart().startsWith("|") && block.lines.length < 3)
        return tableElement(block.lines.slice(0, 1), true);  // its second line may not be whole
      return create("p", "", ...inline(block.lines.map(line => line.trimEnd()).join("\n"), growing));
  }
}

const blockElements = (lines, depth, growing) =>
  blocks(lines).map((block, i, all) => blockElement(block, depth, growing && i === all.length - 1));

function tableElement(lines, growing) {
  const side = d => d.endsWith(":") ? (d.startsWith(":") ? "center" : "right") : "";
  const columns = cells(lines[0]).length, sides = lines[1] ? cells(lines[1]).map(side) : [];
  const row = (line, tag) =>
    create("tr", "", ...cells(line).slice(0, columns).map((cell, i) => create(tag, sides[i], ...inline(cell, growing))));
  const body = create("tbody", "", ...lines.slice(2).map(line => row(line, "td")));
  return create("div", "table", create("table", "", create("thead", "", row(lines[0], "th")), body));
}

function webAddress(text) {
  if (!/^https?:\/\/[^/?#]/.test(text)) return null;
  try {
    return new URL(text).href;
  } catch {
    return null;
  }
}

function linkElement(address, ...children) {
  const a = create("a", "", ...children);
  a.href = address;
  a.rel = "noopener noreferrer";
  a.target = "_blank";
  return a;
}

// The nodes of a text with emphasis, code, links, formulas and escapes.
function inline(text, growing) {
  const special = /\\[!-\/:-@[-`{-~]|`+|\*+|_+|~~|\$\$|!?\[|<?https?:\/\//g;
  const link = /!?\[([^[\]]*)\]\( ?<?([^\s()<>[\]]*(?:\([^\s()<>[\]]*\)[^\s()<>[\]]*)*)>?(?: "[^"\n]*")? ?\)/y;
  const address = /<?(https?:\/\/[^\s<>"`|]{1,2000})>?/y;
  const closers = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"};
  const absent = new Set();  // closers that do not come any more: looking for each only once keeps the time linear
  const tags = {"*": "em", "**": "strong", "_": "em", "__": "strong", "~~": "del"};
  const open = [{marker: "", nodes: []}];  // what is open, the outermost first
  const put = (...nodes) => open.at(-1).nodes.push(...nodes);
  const wordAt = i => /[\p{L}\p{N}]/u.test(text[i] ?? "");
  const spaceAt = i => !/\S/.test(text[i] ?? " ");
  // Where `closer` comes next, from i on.
  const find = (closer, i) => {
    let end = absent.has(closer) ? -1 : text.indexOf(closer, i);
    if (closer[0] === "`")  // a run of exactly this length
      while (end >= 0 && text[end + closer.length] === "`") {
        while (text[end] === "`") ++end;
        end = text.indexOf(closer, end);
      }
    if (end < 0) absent.add(closer);
    return end;
  };
  const abandon = () => {
    const {marker, nodes} = open.pop();
    put(marker, ...nodes);
  };
  const close = () => {
    const {marker, nodes} = open.pop();
    put(create(tags[marker], "", ...nodes));
  };

  let end = 0;  // of what has been put
  for (let match; (match = special.exec(text));) {
    let token = match[0];
    const at = match.index;
    put(text.slice(end, at));
    end = special.lastIndex;
    if (token[0] === "`") {
      const closed = find(token, end);
      if (closed < 0 && !growing) put(token);
      else {
        const code = text.slice(end, closed < 0 ? undefined : closed);
        put(create("code", "", code.startsWith(" ") && code.endsWith(" ") && code.trim() ? code.slice(1, -1) : code));
        end = closed < 0 ? text.length : closed + token.length;
      }
    } else if (closers[token]) {
      const closed = find(closers[token], end);
      if (closed < 0) put(token);
      else put(create("span", "formula", text.slice(at, end = closed + 2)));
    } else if (token[0] === "\\") {
      put(token[1]);
    } else if (token.endsWith("[")) {
      link.lastIndex = at;
      const found = link.exec(text), href = found && webAddress(found[2]);
      if (!href) put(token);
      else {
        const [all, name, written] = found;
        put(linkElement(href, ...inline(name || written)));
        if (name && name !== written) put(create("span", "address", " (" + written + ")"));  // a name may promise another place
        end = at + all.length;
      }
    } else if (token.endsWith("//")) {
      address.lastIndex = at;
      const found = address.exec(text);
      let written = found?.[1] ?? "";
      if (!found?.[0].startsWith("<")) {  // what ends a sentence does not belong to it
        while (/[.,;:!?'*_~\]]$/.test(written) || (written.endsWith(")") && !written.includes("("))) written = written.slice(0, -1);
        if (token[0] === "<") put("<");
      }
      const href = webAddress(written);
      if (!href) put(token);
      else {
        put(linkElement(href, written));
        end = found[0].startsWith("<") ? address.lastIndex : at + written.length;
      }
    } else {  // a run of stars, underscores or ~~
      const inWord = token[0] === "_";
      let closes = !spaceAt(at - 1) && !(inWord && wordAt(end));
      const opens = !spaceAt(end) && !(inWord && wordAt(at - 1));
      while (token) {
        const of = size => open.findLastIndex(o => o.marker === token.slice(0, size));
        const two = token.length > 1 ? of(2) : -1, one = token[0] === "~" ? -1 : of(1), partner = closes ? Math.max(one, two) : -1;
        const size = partner >= 0 ? open[partner].marker.length : token[0] === "~" ? 2 : Math.min(token.length, 2);
        if (partner > 0) {
          while (open.length > partner + 1) abandon();
          close();
        } else if (opens && open.length < deepest) {
          open.push({marker: token.slice(0, size), nodes: []});
          closes = false;  // not what it has just begun
        } else {
          if (!growing || end < text.length) put(token);  // else what follows will tell
          break;
        }
        token = token.slice(size);
      }
    }
    special.lastIndex = end;
  }
  put(text.slice(end));
  while (open.length > 1) {
    const {marker, nodes} = open.at(-1);
    if (growing && marker.length === 2 && nodes.some(node => node)) close();
    else abandon();
  }
  return open[0].nodes.filter(node => node !== "");
}

// ---- Drawing what grows

// Makes `old` like `fresh`, changing as little as possible: what the reader has selected or scrolled stays so.
// Returns what is now in old's place.
function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
    return old;
  }
  if (old.nodeName !== fresh.nodeName || old.className !== fresh.className || old.href !== fresh.href || old.start !== fresh.start) {
    old.replaceWith(fresh);
    return fresh;
  }
  const now = [...fresh.childNodes];
  while (old.childNodes.length > now.length) old.lastChild.remove();
  now.forEach((node, i) => i < old.childNodes.length ? patch(old.childNodes[i], node) : old.append(node));
  return old;
}

// Draws `text` into `parent`. Blocks that have not changed since the last call are left alone.
function drawMarkdown(parent, text, growing) {
  const source = (text, growing) => text + (growing ? "\0" : "");
  if (parent.source === source(text, growing)) return;
  parent.source = source(text, growing);
  const found = blocks(text.split(/\r?\n/));
  found.forEach((block, i) => {
    const last = growing && i === found.length - 1, its = source(block.lines.join("\n"), last), old = parent.children[i];
    if (old?.source === its) return;
    let element = blockElement(block, 0, last);
    if (old) element = patch(old, element);
    else parent.append(element);
    element.source = its;
  });
  while (parent.children.length > found.length) parent.lastChild.remove();
}
