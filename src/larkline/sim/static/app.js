// The chat page: who am I, which chats, what was said; live through one event stream.
import { avatar, el, icon } from "/static/dom.js";
import { lang, say, setLang } from "/static/words.js";
import { MessageView, preview } from "/static/message.js";

const THEMES = ["auto", "light", "dark"];
const state = {
  users: [], apps: [], chats: new Map(), messages: new Map(), loaded: new Set(), unread: new Set(),
  me: localStorage.getItem("me"), chat: null, thread: null, replyTo: null, mention: true,
  connections: 0, drafts: new Map(), theme: localStorage.getItem("theme") || "auto", broken: false,
};
const views = new Map();
const part = (id) => document.getElementById(id);

// ---- talking to the simulator

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error);
  return data;
}

function attempt(work) {
  return work.catch((error) => toast("error", `${say("failed")}: ${error.message}`));
}

function listen() {
  const stream = new EventSource("/_sim/stream");
  stream.onopen = () => { if (state.broken) attempt(reload()); state.broken = false; drawStatus(); };
  stream.onerror = () => { state.broken = true; drawStatus(); };
  stream.onmessage = (event) => {
    const change = JSON.parse(event.data);
    if (change.kind === "world") { takeWorld(change); drawAll(); } else takeMessage(change.message);
  };
  addEventListener("pagehide", () => stream.close());
}

async function reload() {
  takeWorld(await get("/_sim/world"));
  state.loaded.clear();
  if (state.chat) await openChat(state.chat);
}

function takeWorld(world) {
  Object.assign(state, { users: world.users, apps: world.apps, connections: world.connections });
  state.chats = new Map(world.chats.map((chat) => [chat.id, chat]));
  if (!state.users.some((user) => user.id === state.me)) state.me = state.users[0]?.id ?? null;
}

function takeMessage(message) {
  const chat = state.chats.get(message.chat);
  const fresh = !state.messages.has(message.id);
  state.messages.set(message.id, message);
  if (!chat) return;
  if (!chat.last || message.number >= chat.last.number) chat.last = message;
  if (fresh && message.chat !== state.chat && mine(chat) && message.sender !== state.me) state.unread.add(chat.id);
  drawChats();
  if (message.chat === state.chat) drawMessages();
}

// ---- who and where

const mine = (chat) => chat.users.includes(state.me);
const myChats = () => [...state.chats.values()].filter(mine).sort((a, b) => (b.last?.created ?? 0) - (a.last?.created ?? 0) || (a.kind === "p2p" ? -1 : 1));
const inChat = (id) => [...state.messages.values()].filter((m) => m.chat === id).sort((a, b) => a.number - b.number);
const botOf = (chat) => state.apps.find((app) => chat.apps.includes(app.id));

async function become(user) {
  state.me = user;
  localStorage.setItem("me", user);
  state.unread.clear();
  state.replyTo = null;
  const current = state.chats.get(state.chat);
  if (current && mine(current)) { redrawChat(); drawAll(); } else await openChat(myChats()[0]?.id ?? null);
}

// The platform tells a bot when somebody opens the private chat with it.
async function enter(chat) {
  await openChat(chat.id);
  if (chat.kind === "p2p") await post("/_sim/enter", { user: state.me, app: chat.apps[0] });
}

async function openChat(id) {
  if (state.chat !== id) { state.thread = null; state.replyTo = null; }
  state.chat = id;
  state.unread.delete(id);
  if (id && !state.loaded.has(id)) {
    const found = await get(`/_sim/chats/${encodeURIComponent(id)}/messages`);
    for (const message of found.messages) state.messages.set(message.id, message);
    state.loaded.add(id);
  }
  redrawChat();
  drawAll();
}

// ---- drawing

function drawAll() { drawRail(); drawChats(); drawStatus(); drawTalk(); drawMessages(); }

function drawRail() {
  const people = state.users.map((user) => el("button", {
    class: user.id === state.me ? "person me" : "person", type: "button",
    title: `${say(user.id === state.me ? "actingAs" : "switchTo")} ${user.name}`,
    "aria-label": `${say("switchTo")} ${user.name}`, "aria-pressed": String(user.id === state.me),
    onclick: () => attempt(become(user.id)),
  }, avatar(user.id, user.name)));
  const theme = { auto: "auto", light: "sun", dark: "moon" }[state.theme];
  part("rail").replaceChildren(
    el("div", { class: "people" }, ...people),
    el("div", { class: "tools" },
      el("button", { class: "tool", type: "button", id: "theme", title: `${say("theme")}: ${say(`theme${state.theme[0].toUpperCase()}${state.theme.slice(1)}`)}`, "aria-label": say("theme"), onclick: nextTheme }, icon(theme, 20)),
      el("button", { class: "tool words", type: "button", id: "language", title: say("language"), "aria-label": say("language"), onclick: nextLanguage }, lang() === "zh" ? "EN" : "中")));
}

function nextTheme() {
  state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
  localStorage.setItem("theme", state.theme);
  applyTheme();
  drawRail();
}

function applyTheme() {
  if (state.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = state.theme;
}

function nextLanguage() {
  setLang(lang() === "zh" ? "en" : "zh");
  redrawChat();
  drawAll();
}

function drawStatus() {
  const node = part("status");
  const up = state.connections > 0 && !state.broken;
  node.className = `pill ${up ? "up" : "down"}`;
  node.textContent = state.broken ? say("lost") : say(up ? "online" : "offline");
  part("product").textContent = say("product");
  part("note").textContent = say("note");
}

function drawChats() {
  part("chats").replaceChildren(...myChats().map((chat) => {
    const bot = botOf(chat);
    const face = chat.kind === "p2p" ? avatar(chat.id, bot?.name ?? chat.name, true) : el("span", { class: "avatar crowd", "aria-hidden": "true" }, icon("group", 20));
    const said = chat.last ? preview(chat.last, state.me) : "";
    return el("li", {}, el("button", {
      class: chat.id === state.chat ? "chat open" : "chat", type: "button", dataset: { chat: chat.id },
      onclick: () => attempt(enter(chat)),
    }, face, el("span", { class: "chat-text" },
      el("span", { class: "chat-top" }, el("b", {}, chat.name), chat.kind === "p2p" ? el("span", { class: "badge" }, say("bot")) : null, el("time", {}, chat.last ? clock(chat.last.created) : "")),
      el("span", { class: "chat-said" }, said)), state.unread.has(chat.id) ? el("i", { class: "dot" }) : null));
  }));
}

function clock(seconds) {
  const then = new Date(seconds * 1000);
  const now = new Date();
  const time = then.toLocaleTimeString(lang() === "zh" ? "zh-CN" : "en-GB", { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === now.toDateString()) return time;
  return `${then.getMonth() + 1}/${then.getDate()}`;
}

function redrawChat() {
  views.clear();
  part("talk").replaceChildren();
  part("thread").replaceChildren();
}

function drawTalk() {
  const chat = state.chats.get(state.chat);
  const talk = part("talk");
  if (!chat) { talk.replaceChildren(); return; }
  if (talk.dataset.shown === chat.id && talk.firstChild) return;
  talk.dataset.shown = chat.id;
  const about = chat.kind === "p2p" ? say("p2p") : say("members", { n: chat.users.length });
  talk.replaceChildren(
    el("header", { class: "talk-head" }, el("h2", {}, chat.name), el("span", { class: "about" }, about)),
    el("div", { class: "flow", id: "flow", tabindex: "0", role: "log" }),
    composer(chat, null));
}

function composer(chat, root) {
  const key = root ?? chat.id;
  const area = el("textarea", {
    rows: "1", "aria-label": say("send"),
    placeholder: root ? say("threadPlaceholder") : say("placeholder", { name: chat.name }),
  });
  area.value = state.drafts.get(key) ?? "";
  const grow = () => { area.style.height = "auto"; area.style.height = `${Math.min(area.scrollHeight, 180)}px`; };
  area.addEventListener("input", () => { state.drafts.set(key, area.value); grow(); });
  const send = () => {
    const text = area.value.trim();
    if (!text) return;
    area.value = "";
    state.drafts.delete(key);
    grow();
    const body = { user: state.me, chat: chat.id, text, mention: chat.kind === "group" && state.mention };
    if (root) Object.assign(body, { reply_to: root, in_thread: true });
    else if (state.replyTo) body.reply_to = state.replyTo;
    state.replyTo = null;
    drawReply();
    attempt(post("/_sim/send", body));
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  const mention = chat.kind === "group" ? el("button", {
    class: state.mention ? "mention on" : "mention", type: "button", "aria-pressed": String(state.mention),
    onclick: (event) => {
      state.mention = !state.mention;
      event.currentTarget.classList.toggle("on", state.mention);
      event.currentTarget.setAttribute("aria-pressed", String(state.mention));
    },
  }, say("mention")) : null;
  return el("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); send(); } },
    root ? null : el("div", { class: "answering", id: "answering", hidden: true }),
    el("div", { class: "composer-row" }, mention, area, el("button", { class: "send", type: "submit", title: say("send"), "aria-label": say("send") }, icon("send", 18))));
}

function drawReply() {
  const bar = part("answering");
  if (!bar) return;
  const message = state.messages.get(state.replyTo);
  bar.hidden = !message;
  if (message) {
    bar.replaceChildren(el("span", {}, `${say("replyTo", { name: message.sender_name })}: ${preview(message, state.me)}`),
      el("button", { type: "button", "aria-label": say("cancel"), onclick: () => { state.replyTo = null; drawReply(); } }, icon("close", 14)));
  }
}

function drawMessages() {
  const chat = state.chats.get(state.chat);
  const flow = part("flow");
  if (!chat || !flow) return;
  const every = inChat(chat.id);
  const threads = Map.groupBy(every.filter((m) => m.thread && m.root), (m) => m.root);
  place(flow, every.filter((m) => !(m.thread && m.root)), threads, "main");
  if (!flow.childElementCount) {
    flow.replaceChildren(el("div", { class: "empty" }, el("b", {}, say("empty")), el("span", {}, say("emptyHint"))));
  }
  drawThread(chat, every);
}

function drawThread(chat, every) {
  const aside = part("thread");
  const root = state.messages.get(state.thread);
  aside.hidden = !root;
  part("app").classList.toggle("threaded", Boolean(root));
  if (!root) { aside.replaceChildren(); return; }
  if (aside.dataset.root !== root.id || !aside.firstChild) {
    aside.dataset.root = root.id;
    for (const key of [...views.keys()]) if (key.startsWith("thread:")) views.delete(key);
    aside.replaceChildren(
      el("header", { class: "talk-head" }, el("h2", {}, say("thread")), el("button", { class: "tool", type: "button", "aria-label": say("close"), onclick: () => { state.thread = null; drawMessages(); } }, icon("close", 18))),
      el("div", { class: "flow", id: "thread-flow" }), composer(chat, root.id));
  }
  place(part("thread-flow"), [root, ...every.filter((m) => m.thread && m.root === root.id)], new Map(), "thread");
}

// Puts the messages into a flow in order, reusing the nodes that stand there.
function place(flow, messages, threads, where) {
  const atEnd = flow.scrollHeight - flow.scrollTop - flow.clientHeight < 80;
  const wanted = [];
  let before = null;
  for (const message of messages) {
    if (!before || message.created - before.created > 300) wanted.push(timeMark(message.created, `${where}:t${message.id}`));
    const key = `${where}:${message.id}`;
    if (!views.has(key)) views.set(key, new MessageView(actions(where)));
    const joined = before && before.sender === message.sender && message.created - before.created < 120 && !message.parent && !before.deleted;
    wanted.push(views.get(key).show(message, { me: state.me, joined, replies: threads.get(message.id) ?? [], parent: state.messages.get(message.parent), where }));
    before = message;
  }
  const known = new Set(wanted);
  for (const child of [...flow.children]) if (!known.has(child)) child.remove();
  wanted.forEach((node, n) => { if (flow.children[n] !== node) flow.insertBefore(node, flow.children[n] ?? null); });
  if (atEnd || flow.dataset.first !== "no") flow.scrollTop = flow.scrollHeight;
  if (messages.length) flow.dataset.first = "no";
}

function timeMark(seconds, key) {
  if (!views.has(key)) {
    const then = new Date(seconds * 1000);
    const today = new Date().toDateString() === then.toDateString();
    const day = today ? say("today") : then.toLocaleDateString(lang() === "zh" ? "zh-CN" : "en-GB", { month: "short", day: "numeric" });
    const time = then.toLocaleTimeString(lang() === "zh" ? "zh-CN" : "en-GB", { hour: "2-digit", minute: "2-digit" });
    views.set(key, el("div", { class: "when" }, `${day} ${time}`));
  }
  return views.get(key);
}

function actions(where) {
  return {
    reply: (message) => { state.replyTo = message.id; drawReply(); document.querySelector(".talk textarea")?.focus(); },
    thread: (message) => { state.thread = message.root && message.thread ? message.root : message.id; drawMessages(); part("thread").querySelector("textarea")?.focus(); },
    recall: (message) => attempt(post("/_sim/recall", { message: message.id })),
    click: (message, action) => attempt(click(message, action)),
    where,
  };
}

async function click(message, action) {
  const answer = await post("/_sim/click", { user: state.me, message: message.id, ...action });
  if (answer.code) toast("error", `${say(`c${answer.code}`)} (${answer.code})`);
  else if (answer.toast?.content) toast(answer.toast.type ?? "info", answer.toast.content);
}

function toast(kind, text) {
  const known = ["info", "success", "warning", "error"].includes(kind) ? kind : "info";
  const node = el("div", { class: `toast ${known}` }, text);
  part("toasts").append(node);
  setTimeout(() => node.remove(), 4000);
}

// ---- start

applyTheme();
takeWorld(await get("/_sim/world"));
const wanted = new URLSearchParams(location.search);
if (state.users.some((user) => user.id === wanted.get("user"))) state.me = wanted.get("user");
await openChat(state.chats.has(wanted.get("chat")) ? wanted.get("chat") : myChats()[0]?.id ?? null);
listen();
document.documentElement.dataset.ready = "yes";
