// The agents' desk: the open chats, and the chosen one in the same element that customers have, with `inline` and `as="agent"`.
import "/widget.js";

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => (document.documentElement.dataset.theme = asked.get("theme") ?? (dark.matches ? "dark" : "light"));
paint();
dark.addEventListener("change", paint);
if (asked.get("dir") == "rtl") document.documentElement.dir = "rtl";

const TITLE = document.title;
const REPLIES = ["Good evening! How can I help?", "Let me look that up for you.", "Your parcel leaves tomorrow.", "Is there anything else?"];
const STATES = { open: "Connected", connecting: "Connecting", waiting: "Reconnecting", closed: "Closed" };

const remember = (name, value) => {
  try {
    if (value === undefined) return JSON.parse(localStorage.getItem(name));
    localStorage.setItem(name, JSON.stringify(value));
  } catch {} // storage is forbidden: nothing is remembered
  return value;
};
let agent = asked.get("agent") ?? remember("desk:agent") ?? "agent_1";
const seen = remember("desk:seen") ?? {}; // chat -> how many of its messages this browser has shown
const joined = new Set(); // announced once; a reload of this page is no news for the customer
try {
  for (const id of JSON.parse(sessionStorage.getItem("desk:joined") ?? "[]")) joined.add(id);
} catch {}
let chats = [];
let chosen = "";
let widget;

const nameOf = (id) => "Visitor " + id.replace(/^visitor-/, "").slice(0, 24);
const hueOf = (id) => [...id].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 360, 7);
const face = (element, id) => {
  element.textContent = nameOf(id).slice(8, 10).toUpperCase();
  element.style.setProperty("--hue", hueOf(id));
};
const ago = (iso) => {
  const minutes = Math.floor((Date.now() - Date.parse(iso)) / 60_000);
  if (!(minutes >= 1)) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h`;
  return new Date(iso).toLocaleDateString(undefined, { day: "numeric", month: "short" });
};
const make = (name, className, text = "") => Object.assign(document.createElement(name), { className, textContent: text });

function choose(id) {
  if (!id || id == chosen) return;
  chosen = id;
  document.body.dataset.chat = id;
  $("blank").hidden = true;
  $("talk-head").hidden = $("replies").hidden = false;
  $("who").textContent = nameOf(id);
  $("about").textContent = `Chat ${id}`;
  face($("face"), id);
  widget?.remove();
  widget = document.createElement("eclipse-chat");
  const attributes = {
    inline: "",
    as: "agent",
    "no-title": "",
    "token-url": `/api/ws/token?agent=${encodeURIComponent(agent)}`,
    "history-url": "/api/chats/{chatId}/messages?limit=1000",
    "chat-id": id,
    spread: 2000,
    theme: document.documentElement.dataset.theme,
  };
  for (const [name, value] of Object.entries(attributes)) widget.setAttribute(name, value);
  widget.texts = { title: `Chat with ${nameOf(id)}`, empty: "Nothing has been said yet.", someone: "The customer", user: nameOf(id), placeholder: "Write an answer…" };
  widget.addEventListener("state", ({ detail }) => {
    $("state").dataset.state = detail;
    $("state").textContent = STATES[detail];
  });
  $("pane").replaceChildren(widget);
  if (!joined.has(id)) widget.chat.joined();
  joined.add(id);
  try {
    sessionStorage.setItem("desk:joined", JSON.stringify([...joined].slice(-200)));
  } catch {}
  poll();
}

function list() {
  const focused = document.activeElement?.dataset?.id;
  let total = 0;
  const items = chats.map((chat) => {
    if (chat.id == chosen && !document.hidden) seen[chat.id] = chat.count;
    const unread = Math.max(0, chat.count - (seen[chat.id] ?? 0));
    total += unread;
    const button = make("button", unread ? "chat unread" : "chat");
    button.type = "button";
    button.dataset.id = chat.id;
    button.setAttribute("aria-current", String(chat.id == chosen));
    const picture = make("span", "face");
    picture.setAttribute("aria-hidden", "true");
    face(picture, chat.id);
    const time = make("time", "", ago(chat.updatedAt));
    time.dateTime = chat.updatedAt;
    const last = make("span", "last", typeof chat.lastMessage == "string" ? chat.lastMessage : chat.lastMessage?.content ?? "");
    last.dir = "auto";
    button.append(picture, make("span", "name", nameOf(chat.id)), time, last);
    if (unread) {
      const count = make("span", "count", unread > 99 ? "99+" : unread);
      count.setAttribute("aria-label", `${unread} unread`);
      count.setAttribute("role", "img");
      button.append(count);
    }
    button.addEventListener("click", () => choose(chat.id));
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  $("chats").replaceChildren(...items);
  if (focused) $("chats").querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  $("none").hidden = chats.length > 0;
  $("total").hidden = !total;
  $("total").textContent = total;
  document.title = (total ? `(${total}) ` : "") + TITLE;
  remember("desk:seen", Object.fromEntries(chats.map(({ id }) => [id, seen[id] ?? 0])));
}

let last = "";
async function poll() {
  try {
    const answer = await fetch("/api/chats", { signal: AbortSignal.timeout(8_000) });
    chats = (await answer.json()).chats;
    const now = JSON.stringify([chats, chosen, document.hidden, Math.floor(Date.now() / 60_000)]);
    if (now != last) list(); // unchanged: leave the elements, and the focus, alone
    last = now;
  } catch {} // the next round asks again; the state above tells about the connection
}

$("back").addEventListener("click", () => {
  delete document.body.dataset.chat;
  const from = chosen;
  chosen = "";
  widget?.remove();
  widget = undefined;
  $("blank").hidden = false;
  $("talk-head").hidden = $("replies").hidden = true;
  $("state").dataset.state = "idle";
  last = "";
  poll().then(() => $("chats").querySelector(`[data-id="${CSS.escape(from)}"]`)?.focus());
});
for (const text of REPLIES) {
  const button = make("button", "", text);
  button.type = "button";
  button.dir = "auto";
  button.addEventListener("click", () => widget?.send(text));
  $("replies").append(button);
}
$("agent").addEventListener("change", ({ target }) => {
  agent = remember("desk:agent", target.value);
  joined.clear();
  const again = chosen;
  chosen = "";
  choose(again);
});

$("state").dataset.state = "idle";
try {
  const { agents } = await (await fetch("/api/agents")).json();
  for (const { id, name } of agents) $("agent").append(new Option(name, id, id == agent, id == agent));
} catch {
  $("agent").append(new Option(agent, agent));
}
setInterval(poll, 2_000);
document.addEventListener("visibilitychange", poll);
await poll();
choose(asked.get("chat"));
