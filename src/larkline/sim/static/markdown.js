// Feishu's Markdown as DOM nodes. Nothing is ever parsed as HTML: unknown tags stay text.
import { el, icon } from "/static/dom.js";
import { say } from "/static/words.js";

const NAMED = { lt: "<", gt: ">", amp: "&", quot: '"', nbsp: "\u00a0", apos: "'", ensp: "\u2002", emsp: "\u2003" };
const COLORS = new Set("red green blue grey gray orange yellow purple violet indigo turquoise wathet lime carmine neutral".split(" "));
const INLINE = [
  ["code", /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/],
  ["escape", /^\\([\\`*_{}[\]()#+\-.!~|<>&])/],
  ["entity", /^&(#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});/i],
  ["at", /^<at\s+(?:id|user_id|email)=["']?([^"'>\s]*)["']?\s*>([^<]*)<\/at>/],
  ["font", /^<font\s+color=["']?([\w-]+)["']?\s*>([\s\S]*?)<\/font>/],
  ["tagged", /^<text_tag\s+color=["']?([\w-]+)["']?\s*>([\s\S]*?)<\/text_tag>/],
  ["break", /^<br\s*\/?>/],
  ["image", /^!\[([^\]]*)\]\(([^)\s]*)\)/],
  ["link", /^\[((?:[^\][]|\[[^\]]*\])+)\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/],
  ["strong", /^(\*\*|__)(?=\S)([\s\S]*?\S)\1/],
  ["strike", /^~~(?=\S)([\s\S]*?\S)~~/],
  ["emphasis", /^\*(?![\s*])([^*\n]*[^\s*])\*(?!\*)/],
  ["emphasis", /^_(?=\S)([^_\n]*\S)_(?![\p{L}\p{N}])/u],
  ["auto", /^<?(https?:\/\/[^\s<>"')\]，。；、）】]+)>?/],
];

export function safeHref(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch { return null; }
}

function decoded(name) {
  if (name.startsWith("#")) {
    const point = name[1].toLowerCase() === "x" ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : "\ufffd";
  }
  return NAMED[name.toLowerCase()] ?? `&${name};`;
}

function inlineNode(kind, match) {
  switch (kind) {
    case "code": return el("code", {}, match[2].trim() ? match[2].replace(/^ (.+) $/, "$1") : match[2]);
    case "escape": return match[1];
    case "entity": return decoded(match[1]);
    case "at": return el("span", { class: "at" }, `@${match[2] || match[1]}`);
    case "font": return el("span", { class: `ink ink-${COLORS.has(match[1]) ? match[1] : "neutral"}` }, ...inline(match[2]));
    case "tagged": return el("span", { class: `chip ink-${COLORS.has(match[1]) ? match[1] : "neutral"}` }, ...inline(match[2]));
    case "break": return el("br");
    case "image": return el("span", { class: "picture" }, icon("file", 14), match[1] || match[2]);
    case "link": {
      const href = safeHref(match[2]);
      return href ? link(href, inline(match[1])) : el("span", {}, ...inline(match[1]));
    }
    case "strong": return el("strong", {}, ...inline(match[2]));
    case "strike": return el("s", {}, ...inline(match[1]));
    case "emphasis": return el("em", {}, ...inline(match[1]));
    default: return link(match[1], [match[1]]);
  }
}

function link(href, children) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

export function inline(text) {
  const nodes = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    if (text[at] === "\n") { nodes.push(plain, el("br")); plain = ""; at += 1; continue; }
    const special = "`\\&<![*_~h".includes(text[at]);
    // A word's inner underscore opens no emphasis.
    const inner = text[at] === "_" && at > 0 && /[\p{L}\p{N}]/u.test(text[at - 1]);
    const found = special && !inner && first(text.slice(at, at + 4000));
    if (found) {
      nodes.push(plain, inlineNode(found[0], found[1]));
      plain = "";
      at += found[1][0].length;
    } else { plain += text[at]; at += 1; }
  }
  nodes.push(plain);
  return nodes.filter((node) => node !== "");
}

function first(rest) {
  for (const [kind, pattern] of INLINE) {
    const match = pattern.exec(rest);
    if (match) return [kind, match];
  }
  return null;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

export function markdown(text) {
  const root = el("div", { class: "md" });
  root.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0));
  return root;
}

function blocks(lines, depth) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const [node, next] = block(lines, at, depth);
    if (node) nodes.push(node);
    at = next;
  }
  return nodes;
}

function block(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  let match = FENCE.exec(line);
  if (match) return fenced(lines, at, match);
  if ((match = HEADING.exec(line))) return [el(`h${match[1].length}`, {}, ...inline(match[2])), at + 1];
  if (RULE.test(line)) return [el("hr"), at + 1];
  if (QUOTE.test(line) && depth < 8) {
    const inner = [];
    while (at < lines.length && (match = QUOTE.exec(lines[at]))) { inner.push(match[1]); at += 1; }
    return [el("blockquote", {}, ...blocks(inner, depth + 1)), at];
  }
  if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1])) return table(lines, at);
  if (ITEM.test(line) && depth < 8) return list(lines, at, depth);
  return paragraph(lines, at);
}

function paragraph(lines, at) {
  const from = at;
  at += 1;
  while (at < lines.length && lines[at].trim() && ![FENCE, HEADING, RULE, QUOTE, ITEM].some((p) => p.test(lines[at]))
    && !(lines[at].includes("|") && DIVIDER.test(lines[at + 1] ?? ""))) at += 1;
  return [el("p", {}, ...inline(lines.slice(from, at).join("\n").trim())), at];
}

function fenced(lines, at, match) {
  const close = new RegExp(`^ {0,3}${match[1][0] === "`" ? "`" : "~"}{${match[1].length},}\\s*$`);
  const body = [];
  at += 1;
  while (at < lines.length && !close.test(lines[at])) { body.push(lines[at]); at += 1; }
  const code = body.join("\n");
  const language = match[2].trim().split(/\s+/)[0];
  const copy = el("button", { class: "code-copy", type: "button", title: say("copy"), "aria-label": say("copy") }, icon("copy", 14));
  copy.addEventListener("click", () => {
    navigator.clipboard?.writeText(code).then(() => copy.classList.add("done"), () => copy.classList.add("failed"));
  });
  const head = el("div", { class: "code-head" }, el("span", {}, language || "text"), copy);
  return [el("figure", { class: "code" }, head, el("pre", {}, el("code", {}, code))), at + 1];
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.replace(/\\\|/g, "|").trim());
}

function table(lines, at) {
  const align = cells(lines[at + 1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "left"));
  const row = (tag, line) => el("tr", {}, ...align.map((side, n) => el(tag, { class: `to-${side}` }, ...inline(cells(line)[n] ?? ""))));
  const head = el("thead", {}, row("th", lines[at]));
  const body = el("tbody");
  at += 2;
  while (at < lines.length && lines[at].includes("|") && lines[at].trim()) { body.append(row("td", lines[at])); at += 1; }
  return [el("div", { class: "table" }, el("table", {}, head, body)), at];
}

function list(lines, at, depth) {
  const opening = ITEM.exec(lines[at]);
  const indent = opening[1].length;
  const ordered = /\d/.test(opening[2]);
  const node = el(ordered ? "ol" : "ul");
  if (ordered) node.setAttribute("start", parseInt(opening[2], 10));
  while (at < lines.length) {
    const match = ITEM.exec(lines[at]);
    if (!match || match[1].length < indent || /\d/.test(match[2]) !== ordered || RULE.test(lines[at])) break;
    const inner = [match[3]];
    at += 1;
    while (at < lines.length) {
      const space = /^\s*/.exec(lines[at])[0].length;
      if (!lines[at].trim()) {
        const next = lines[at + 1] ?? "";
        if (!next.trim() || /^\s*/.exec(next)[0].length <= indent) break;
      } else if (space <= indent) break;
      inner.push(lines[at].slice(Math.min(space, match[0].length - match[3].length)));
      at += 1;
    }
    node.append(item(inner, depth));
    while (at < lines.length && !lines[at].trim() && ITEM.exec(lines[at + 1] ?? "")?.[1].length >= indent) at += 1;
  }
  return [node, at];
}

function item(inner, depth) {
  const task = /^\[([ xX])\]\s+/.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const children = blocks(inner, depth + 1);
  const entry = el("li", { class: task ? "task" : undefined });
  if (task) entry.append(el("span", { class: task[1] === " " ? "box" : "box done", "aria-hidden": "true" }));
  // A tight item shows its first paragraph without a paragraph's margins.
  if (children[0]?.tagName === "P") entry.append(...children.shift().childNodes);
  entry.append(...children);
  return entry;
}
