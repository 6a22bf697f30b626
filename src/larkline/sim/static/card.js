// Cards of schema 2.0. An element is redrawn only when its JSON changed.
import { el, icon } from "/static/dom.js";
import { inline, markdown, safeHref } from "/static/markdown.js";
import { say } from "/static/words.js";

const SIZES = new Set("heading-0 heading-1 heading-2 heading-3 heading-4 heading normal notation xxxx-large xxx-large xx-large x-large large medium small x-small".split(" "));
const TEMPLATES = new Set("blue wathet turquoise green yellow orange red carmine violet purple indigo grey default".split(" "));

function words(text) {
  if (!text) return [];
  if (typeof text === "string") return [text];
  return text.tag === "plain_text" ? [text.content ?? ""] : inline(text.content ?? "");
}

function sized(node, size) {
  if (SIZES.has(size)) node.classList.add(`size-${size}`);
  return node;
}

// One card in the page; `act(action, node)` is called for clicks.
export class CardView {
  constructor(act) {
    this.act = act;
    this.node = el("article", { class: "card" });
    this.drawn = [];
  }

  show(card, streaming) {
    this.node.classList.toggle("streaming", streaming);
    const parts = [];
    if (card.header) parts.push({ tag: "#header", ...card.header });
    parts.push(...(card.body?.elements ?? []));
    const last = parts.findLastIndex((part) => part.tag === "markdown" && part.text_size !== "notation");
    parts.forEach((part, n) => {
      const key = JSON.stringify(part);
      const old = this.drawn[n];
      const caret = streaming && n === last;
      if (old?.key === key && old.caret === caret) return;
      const node = this.element(part);
      node.classList.toggle("caret", caret);
      if (old) old.node.replaceWith(node); else this.node.append(node);
      this.drawn[n] = { key, node, caret };
    });
    for (const extra of this.drawn.splice(parts.length)) extra.node.remove();
  }

  element(part) {
    switch (part.tag) {
      case "#header": return this.header(part);
      case "markdown": return sized(markdown(part.content ?? ""), part.text_size);
      case "div": return sized(el("div", { class: "md" }, ...words(part.text ?? part.content)), part.text?.text_size);
      case "plain_text": case "lark_md": return el("div", { class: "md" }, ...words(part));
      case "hr": return el("hr", { class: "line" });
      case "button": return this.button(part);
      case "column_set": return this.columns(part);
      case "column": case "form": case "interactive_container": return this.box(part);
      case "collapsible_panel": return this.panel(part);
      case "table": return this.table(part);
      case "input": return el("input", { class: "field", placeholder: words(part.placeholder).join(""), disabled: true });
      case "img": return el("div", { class: "picture block" }, icon("file", 18), words(part.alt).join("") || say("image"));
      default: return el("div", { class: "unknown" }, `[${part.tag}]`);
    }
  }

  header(part) {
    const template = TEMPLATES.has(part.template) ? part.template : "default";
    const tags = (part.text_tag_list ?? []).map((tag) => el("span", { class: "chip" }, ...words(tag.text)));
    const title = el("div", { class: "card-title" }, ...words(part.title), ...tags);
    const subtitle = part.subtitle ? el("div", { class: "card-subtitle" }, ...words(part.subtitle)) : null;
    return el("header", { class: `card-head tint-${template}` }, title, subtitle);
  }

  button(part) {
    const type = ["primary", "danger", "text", "primary_text", "danger_text", "primary_filled", "danger_filled", "laser"].includes(part.type) ? part.type : "default";
    const open = (part.behaviors ?? []).find((b) => b.type === "open_url");
    const href = open && safeHref(open.default_url ?? open.url ?? "");
    if (href) return el("a", { class: `press ${type}`, href, target: "_blank", rel: "noopener noreferrer" }, ...words(part.text));
    const node = el("button", { class: `press ${type} width-${part.width ?? "default"}`, type: "button", disabled: part.disabled === true }, ...words(part.text));
    node.addEventListener("click", () => this.pressed(part, node));
    return node;
  }

  async pressed(part, node) {
    const behavior = (part.behaviors ?? []).find((b) => b.type === "callback");
    const value = behavior ? behavior.value ?? {} : part.value ?? {};
    if (part.confirm && !(await confirmed(part.confirm))) return;
    node.classList.add("busy");
    node.disabled = true;
    try { await this.act({ value, element_id: part.element_id }); } finally {
      node.classList.remove("busy");
      node.disabled = part.disabled === true;
    }
  }

  box(part) {
    const node = el("div", { class: `box-${part.tag}` }, ...(part.elements ?? []).map((e) => this.element(e)));
    if (part.tag === "column" && part.width === "weighted") node.style.flex = `${Number(part.weight) || 1} 1 0`;
    return node;
  }

  columns(part) {
    const flow = ["none", "stretch", "flow", "bisect", "trisect"].includes(part.flex_mode) ? part.flex_mode : "none";
    return el("div", { class: `columns flex-${flow}` }, ...(part.columns ?? []).map((c) => this.box({ tag: "column", ...c })));
  }

  panel(part) {
    const title = el("summary", {}, icon("down", 14), ...words(part.header?.title));
    return el("details", { class: "panel", open: part.expanded === true }, title, el("div", { class: "panel-body" }, ...(part.elements ?? []).map((e) => this.element(e))));
  }

  table(part) {
    const columns = part.columns ?? [];
    const cell = (tag, content) => el(tag, {}, ...inline(String(content ?? "")));
    const head = el("tr", {}, ...columns.map((c) => cell("th", c.display_name ?? c.name)));
    const rows = (part.rows ?? []).slice(0, part.page_size ?? 10).map((row) => el("tr", {}, ...columns.map((c) => cell("td", typeof row[c.name] === "object" ? JSON.stringify(row[c.name]) : row[c.name]))));
    return el("div", { class: "md" }, el("div", { class: "table" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
  }
}

function confirmed(confirm) {
  return new Promise((resolve) => {
    const done = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    const dialog = el("dialog", { class: "ask" },
      el("h3", {}, ...words(confirm.title)), el("p", {}, ...words(confirm.text)),
      el("div", { class: "ask-row" },
        el("button", { class: "press default", type: "button", onclick: () => done(false) }, say("cancel")),
        el("button", { class: "press primary_filled", type: "button", onclick: () => done(true) }, say("confirm"))));
    dialog.addEventListener("cancel", () => done(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// The one line a chat list shows of a card.
export function cardSummary(card) {
  const said = card?.config?.summary?.content || card?.header?.title?.content;
  if (said) return said;
  const part = (card?.body?.elements ?? []).find((e) => e.tag === "markdown");
  return part ? part.content.replace(/[#*`>|]/g, "").trim().slice(0, 80) : say("card");
}
