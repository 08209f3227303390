// The agents' desk: the open chats, and the chosen one in the same element that customers have, with `inline` and `as="agent"`.
import "/widget.js";
import { ask, Chats, MOST } from "/static/demo-chats.js";
import { face, List, nameOf } from "/static/demo-list.js";

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => (document.documentElement.dataset.theme = asked.get("theme") ?? (dark.matches ? "dark" : "light"));
paint();
dark.addEventListener("change", () => {
  paint();
  widget?.setAttribute("theme", document.documentElement.dataset.theme);
});
if (asked.get("dir") == "rtl") document.documentElement.dir = "rtl";

const TITLE = document.title;
const REPLIES = ["Good evening! How can I help?", "Let me look that up for you.", "Your parcel leaves tomorrow.", "Is there anything else?"];
const AGAIN = 5_000; // milliseconds for which the desk says that it is connected again

// Storage may be forbidden: then nothing is remembered.
const recall = (storage, name) => {
  try {
    return JSON.parse(window[storage].getItem(name));
  } catch {}
};
const remember = (storage, name, value) => {
  try {
    window[storage].setItem(name, JSON.stringify(value));
  } catch {}
};

let agent = asked.get("agent") ?? recall("localStorage", "desk:agent") ?? "agent_1";
const joined = new Set(recall("sessionStorage", "desk:joined")); // agent and chat, where the agent was announced
const leaving = new Map(); // chat -> its element, which still sends what was written before another chat was opened
let chosen = "";
let widget;

const chats = new Chats(show);
const list = new List($("chats"), choose);

// Connections

/** What one connection has to say: `lost` while it is, `back` for some seconds after that, nothing otherwise. */
class Line {
  text = "";
  #timer;

  constructor(lost, back) {
    Object.assign(this, { lost, back });
  }

  tell(up) {
    if (up ? this.text != this.lost : this.text == this.lost) return;
    clearTimeout(this.#timer);
    this.text = up ? this.back : this.lost;
    if (up) this.#timer = setTimeout(() => ((this.text = ""), show()), AGAIN);
  }

  get isLost() {
    return this.text == this.lost;
  }
}
const listLine = new Line("Not up to date. Trying again…", "Up to date again.");
const chatLine = new Line("Not connected. Answers are sent later.", "Connected again.");

const put = (element, text) => element.textContent == text || (element.textContent = text);

/** Shows everything that is known now. */
function show() {
  const open = widget?.getAttribute("state");
  if (chats.reached !== undefined) listLine.tell(chats.reached);
  if (open == "open" || open == "waiting") chatLine.tell(open == "open");
  if (open == "open" && !document.hidden) chats.see(chosen);

  const all = chats.all;
  const unread = all.reduce((sum, chat) => sum + chats.unread(chat), 0);
  list.draw(all, (chat) => chats.unread(chat), chosen);
  $("total").hidden = !unread;
  put($("total"), String(unread));
  $("total").ariaLabel = `${unread} unread`;
  document.title = (unread ? `(${unread}) ` : "") + TITLE;
  $("none").hidden = all.length > 0 || !chats.reached;
  $("more").hidden = chats.next == null;
  $("most").hidden = all.length < MOST;

  put($("list-state"), listLine.text);
  $("list-state").classList.toggle("lost", listLine.isLost);
  put($("about"), open == "closed" ? "This chat has been closed." : (widget && chatLine.text) || `Chat ${chosen}`);
  $("about").classList.toggle("lost", chatLine.isLost);
  $("replies").hidden = !widget || open == "closed";
  const lost = listLine.isLost || (widget && chatLine.isLost);
  const state = lost ? "lost" : chats.reached && (!widget || open == "open") ? "open" : "connecting";
  $("state").dataset.state = state;
  put($("state").firstElementChild, { lost: navigator.onLine ? "Reconnecting" : "Offline", open: "Connected", connecting: "Connecting" }[state]);
}

// The open chat

/** Opens a chat. The customer notices nothing of it. */
function choose(id) {
  if (!id || id == chosen) return;
  leave();
  chosen = id;
  document.body.dataset.chat = id;
  $("blank").hidden = true;
  $("pane").hidden = $("talk-head").hidden = false;
  $("who").textContent = nameOf(id);
  face($("face"), id);
  chatLine.text = "";
  widget = leaving.get(id) ?? make(id);
  leaving.delete(id);
  widget.hidden = false;
  show();
}

function make(id) {
  const element = document.createElement("eclipse-chat");
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
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.texts = { title: `Chat with ${nameOf(id)}`, empty: "Nothing has been said yet.", someone: "The customer", user: nameOf(id), placeholder: "Write an answer…" };
  element.addEventListener("state", ({ detail }) => {
    if (element != widget) return;
    show();
    // The list is likely to be lost, or back, together with the chat.
    if (detail != "connecting" && chats.reached === (detail == "waiting")) chats.poll();
  });
  $("pane").append(element);
  const name = `${agent} ${id}`;
  element.chat.on("outbox", (pending) => {
    // The first answer announces the agent. Called before it is sent: the customer reads who writes, then what.
    if (!pending.length || joined.has(name)) return;
    joined.add(name);
    element.chat.joined();
    remember("sessionStorage", "desk:joined", [...joined].slice(-200));
  });
  return element;
}

/** Puts the open chat away, at the latest when all that was written in it is sent. */
function leave() {
  if (!widget) return;
  const [id, element] = [chosen, widget];
  const { chat } = element;
  const unsent = () => chat.pending.some(({ status }) => status != "failed");
  chosen = "";
  widget = undefined;
  element.hidden = true;
  leaving.set(id, element);
  const end = () => {
    if (leaving.get(id) != element || unsent()) return;
    leaving.delete(id);
    element.remove();
  };
  chat.on("outbox", () => queueMicrotask(end));
  end();
}

$("back").addEventListener("click", () => {
  const from = chosen;
  leave();
  delete document.body.dataset.chat;
  $("blank").hidden = false;
  $("pane").hidden = $("talk-head").hidden = true;
  show();
  list.focus(from);
});

/** Puts a text where the cursor is in the answer's field, for the agent to go on with. */
function insert(text) {
  // The element's `draft` has no cursor.
  const field = widget.shadowRoot.querySelector("textarea");
  const { selectionStart: start, selectionEnd: end, value } = field;
  const space = start && !/\s/.test(value[start - 1]) ? " " : "";
  field.setRangeText(space + text, start, end, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}
for (const text of REPLIES) {
  const button = Object.assign(document.createElement("button"), { type: "button", dir: "auto", textContent: text });
  button.addEventListener("click", () => insert(text));
  $("replies").append(button);
}

// The list

$("more").addEventListener("click", async () => {
  const button = $("more");
  if (button.ariaDisabled == "true") return;
  button.ariaDisabled = "true";
  button.textContent = "Loading…";
  const shown = $("chats").childElementCount;
  try {
    await chats.more();
    button.textContent = "Show more";
    $("chats").children[shown]?.firstElementChild.focus({ preventScroll: true });
  } catch {
    button.textContent = "That failed. Try again";
  }
  button.ariaDisabled = "false";
});

// The agents

$("agent").addEventListener("change", ({ target }) => {
  agent = target.value;
  remember("localStorage", "desk:agent", agent);
  const again = chosen;
  leave();
  leaving.get(again)?.remove(); // what waits in it is stored, and goes on with the next element
  leaving.delete(again);
  choose(again);
});

async function loadAgents() {
  try {
    const { agents } = await ask("/api/agents");
    $("agent").replaceChildren(...agents.map(({ id, name }) => new Option(name, id, id == agent, id == agent)));
  } catch {
    setTimeout(loadAgents, AGAIN);
  }
}
$("agent").append(new Option(agent, agent));
loadAgents();
chats.poll();
choose(asked.get("chat"));
