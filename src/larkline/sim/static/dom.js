// Builds elements. Text only ever enters the page as text nodes, never as HTML.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const ICONS = {
  reply: "M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6v1",
  thread: "M5 5h14v10H11l-4 4v-4H5z",
  recall: "M4 9h11a5 5 0 0 1 0 10H9M4 9l4-4M4 9l4 4",
  send: "M4 12 20 4l-5 16-4-7z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  moon: "M20 14.5A8 8 0 1 1 9.5 4a6.5 6.5 0 0 0 10.5 10.5z",
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v10H9zM5 15V5h10",
  down: "M6 9l6 6 6-6",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
  group: "M9 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6M3 19a6 6 0 0 1 12 0M16 5.5a3 3 0 0 1 0 5.5M17.5 14a6 6 0 0 1 3.5 5",
};

export function icon(name, size = 16) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const attributes = {
    viewBox: "0 0 24 24", width: size, height: size, fill: "none", stroke: "currentColor",
    "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true",
  };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const HUES = [211, 22, 158, 268, 338, 188, 44, 122];
const hues = new Map();

function hueOf(id) {
  if (!hues.has(id)) hues.set(id, HUES[hues.size % HUES.length]);
  return hues.get(id);
}

export function avatar(id, name, bot = false) {
  const initials = /[a-z]/i.test(name) ? name.slice(0, 2) : name.slice(-2);
  const node = el("span", { class: bot ? "avatar bot" : "avatar", "aria-hidden": "true" }, bot ? botMark() : initials);
  if (!bot) node.style.setProperty("--hue", hueOf(id));
  return node;
}

function botMark() {
  const svg = icon("close", 20);
  svg.firstChild.setAttribute("d", "M8 5v13h9");
  svg.setAttribute("stroke-width", 3);
  return svg;
}
