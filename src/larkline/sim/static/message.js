// One message in a flow: bubble or card, quote, reactions, thread, and what can be done with it.
import { CardView, cardSummary } from "/static/card.js";
import { avatar, el, icon } from "/static/dom.js";
import { inline, safeHref } from "/static/markdown.js";
import { lang, say } from "/static/words.js";

// Words, not emoji: they read the same where no emoji font is installed.
const REACTIONS = {
  zh: { OK: "OK", THUMBSUP: "赞", Typing: "输入中…", DONE: "完成", SMILE: "微笑", HEART: "爱心", CrossMark: "错误", CheckMark: "正确", OnIt: "处理中…", Alarm: "提醒", GLANCE: "在看", Get: "了解", THINKING: "思考中…", OneSecond: "稍等…" },
  en: { OK: "OK", THUMBSUP: "Like", Typing: "Typing…", DONE: "Done", SMILE: "Smile", HEART: "Heart", CrossMark: "Cross", CheckMark: "Check", OnIt: "On it…", Alarm: "Alarm", GLANCE: "Looking", Get: "Got it", THINKING: "Thinking…", OneSecond: "One second…" },
};

function parsed(content) {
  try { return JSON.parse(content); } catch { return {}; }
}

class Mention {
  constructor(name) { this.name = name; }
}

// The text with its mentions put back, as parts: strings and mentions.
function spoken(text, mentions) {
  const names = new Map(mentions.map((m) => [m.key, m.name]));
  return String(text).split(/(@_user_\d+|@_all)/).filter(Boolean)
    .map((bit) => (names.has(bit) ? new Mention(names.get(bit)) : bit));
}

export function preview(message, me) {
  const who = message.sender === me || message.by === "app" ? "" : `${message.sender_name}: `;
  if (message.deleted) return say("recalled", { name: message.sender_name });
  if (message.card) return who + cardSummary(message.card);
  const body = parsed(message.content);
  if (message.type === "text") return who + spoken(body.text ?? "", message.mentions).map((bit) => (bit instanceof Mention ? `@${bit.name}` : bit)).join("");
  if (message.type === "post") return who + (postOf(body).title || postOf(body).content.flat().map((bit) => bit.text ?? "").join(""));
  return `${who}[${say(message.type)}]`;
}

function postOf(body) {
  const found = body.content ? body : Object.values(body)[0] ?? {};
  return { title: found.title ?? "", content: Array.isArray(found.content) ? found.content : [] };
}

export class MessageView {
  constructor(act) {
    this.act = act;
    this.card = null;
    this.key = "";
    this.node = el("div", { class: "message" });
  }

  // Draws the message; redraws only what changed. Returns the node.
  show(message, context) {
    const { me, joined, replies, parent, where } = context;
    const last = replies.at(-1);
    const key = JSON.stringify([message.deleted, message.content, message.edited, message.reactions, message.thread, me === message.sender, joined, replies.length, last && preview(last, me), parent && preview(parent, me), Boolean(message.card)]);
    if (key !== this.key) { this.key = key; this.card = null; this.draw(message, context); }
    if (message.card && !message.deleted) this.card.show(message.card, message.streaming);
    this.node.dataset.where = where;
    return this.node;
  }

  draw(message, { me, joined, replies, parent, where }) {
    const own = message.by === "user" && message.sender === me;
    this.node.className = `message ${own ? "own" : "other"} ${joined ? "joined" : ""} ${message.deleted ? "gone" : ""}`;
    this.node.dataset.id = message.id;
    if (message.deleted) {
      this.node.replaceChildren(el("div", { class: "recalled" }, say("recalled", { name: message.sender_name })));
      return;
    }
    const bot = message.by === "app";
    const name = joined || own ? null : el("div", { class: "name" }, message.sender_name, bot ? el("span", { class: "badge" }, say("bot")) : null);
    const quote = parent && !(where === "thread" && parent.id === message.root) ? el("div", { class: "quote" }, `${say("replyTo", { name: parent.sender_name })}: ${preview(parent, me)}`) : null;
    const reactions = message.reactions.length ? el("div", { class: "reactions" }, ...message.reactions.map((kind) => el("span", { class: "reaction", title: kind }, REACTIONS[lang()][kind] ?? kind))) : null;
    const body = el("div", { class: "stack" }, name, this.content(message, quote), reactions, this.thread(message, replies, where, me));
    this.node.replaceChildren(el("div", { class: "face" }, joined ? null : avatar(message.sender, message.sender_name, bot)), body, this.tools(message, own, where));
  }

  content(message, quote) {
    if (message.card) {
      this.card = new CardView((action) => this.act.click(message, action));
      return el("div", { class: "card-wrap" }, quote, this.card.node);
    }
    const bubble = el("div", { class: `bubble type-${message.type}` }, quote, ...this.plain(message));
    if (message.edited) bubble.append(el("span", { class: "edited" }, ` (${say("edited")})`));
    return bubble;
  }

  plain(message) {
    const body = parsed(message.content);
    if (message.type === "text") {
      return spoken(body.text ?? "", message.mentions).flatMap((bit) => (bit instanceof Mention ? [el("span", { class: "at" }, `@${bit.name}`)] : linked(bit)));
    }
    if (message.type === "post") return this.post(postOf(body), message.mentions);
    if (["file", "image", "audio", "media", "sticker"].includes(message.type)) {
      return [el("span", { class: "attached" }, icon("file", 20), body.file_name ?? say(message.type))];
    }
    return [`[${say("unknown")}: ${message.type}]`];
  }

  post({ title, content }, mentions) {
    const lines = content.map((line) => el("p", {}, ...line.map((bit) => {
      const href = bit.tag === "a" ? safeHref(bit.href ?? "") : null;
      if (href) return el("a", { href, target: "_blank", rel: "noopener noreferrer" }, bit.text ?? href);
      if (bit.tag === "at") return el("span", { class: "at" }, `@${bit.user_name ?? mentions.find((m) => m.key === bit.user_id)?.name ?? bit.user_id}`);
      if (bit.tag === "code_block") return el("pre", {}, bit.text ?? "");
      if (bit.tag === "md") return el("span", {}, ...inline(bit.text ?? ""));
      if (bit.tag === "img" || bit.tag === "media") return el("span", { class: "attached" }, icon("file", 18), say("image"));
      return el("span", {}, bit.text ?? "");
    })));
    return [title ? el("b", { class: "post-title" }, title) : null, ...lines].filter(Boolean);
  }

  thread(message, replies, where, me) {
    if (where === "thread" || !replies.length) return null;
    const last = replies.at(-1);
    return el("button", { class: "thread-chip", type: "button", title: say("jump"), onclick: () => this.act.thread(message) },
      icon("thread", 14), el("b", {}, say("replies", { n: replies.length })), el("span", {}, preview(last, me)));
  }

  tools(message, own, where) {
    const tool = (name, run) => el("button", { type: "button", title: say(name), "aria-label": say(name), onclick: () => run(message) }, icon(name, 16));
    return el("div", { class: "hover-tools" },
      where === "thread" ? null : tool("reply", this.act.reply),
      where === "thread" ? null : tool("thread", this.act.thread),
      own ? tool("recall", this.act.recall) : null);
  }
}

// Plain text: line breaks kept, addresses made links, nothing else read into it.
function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"'）】，。]+)/).filter(Boolean).map((bit) => {
    const href = /^https?:\/\//.test(bit) ? safeHref(bit) : null;
    return href ? el("a", { href, target: "_blank", rel: "noopener noreferrer" }, bit) : bit;
  });
}
