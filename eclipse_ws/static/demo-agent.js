// The agents' desk: the queue of chats, and the chosen one in the same element that customers have, with `inline` and `as="agent"`.
import { connect } from "/eclipse-chat.js";
import "/widget.js";
import { Alerts } from "/static/demo-alerts.js";
import { ask, Chats } from "/static/demo-chats.js";
import { listen } from "/static/demo-keys.js";
import { Line } from "/static/demo-line.js";
import { face, nameOf } from "/static/demo-list.js";
import { Queue } from "/static/demo-queue.js";
import { Replies } from "/static/demo-replies.js";

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

const INBOX = "inbox:support"; // the chat in which the application says what happens to the others
const AGAIN = 5_000; // milliseconds until a failed request for the agents is sent again

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
const names = new Map(); // of the agents, by their ids
const joined = new Set(recall("sessionStorage", "desk:joined")); // agent and chat, where the agent was announced
const leaving = new Map(); // chat -> its element, which still sends what was written before another chat was opened
let chosen = "";
let widget;
let inbox;
let failure = ""; // of the last thing that the agent wanted to do with the chat

const field = () => widget?.shadowRoot.querySelector("textarea");
const alerts = new Alerts();
const replies = new Replies(field);
const chats = new Chats(show);
const desk = {
  get agent() {
    return agent;
  },
  get chosen() {
    return chosen;
  },
  nameOf: (id) => names.get(id) ?? id,
  choose,
  show,
};
const queue = new Queue(chats, desk);

// Connections

const listLine = new Line(show, "Not up to date. Trying again…", "Up to date again.");
const chatLine = new Line(show, "Not connected. Answers are sent later.", "Connected again.");

const tokenUrl = () => `/api/ws/token?agent=${encodeURIComponent(agent)}`;

/**
 * The agents' inbox: it says what happens to all chats, and has the list loaded when it may have missed something. The open chats are
 * joined over its socket.
 */
function listenToInbox() {
  const before = inbox;
  const here = (inbox = connect({ tokenUrl: tokenUrl(), chatId: INBOX, spread: 2000, events: ["presence", "read"] }));
  if (before) retire(before);
  here.on("state", show);
  here.on("reload", () => here == inbox && chats.load());
  here.on("event", (event) => {
    const news = here == inbox && chats.hear(event);
    const isNew = event.type == "chat_opened";
    const isWritten = event.type == "chat_updated" && news?.chat.lastMessage.role == "USER" && news.chat.lastMessage.id != news.before?.lastMessage.id;
    if (!news || !(isNew || isWritten)) return;
    const { id, assignee, lastMessage } = news.chat;
    if ((assignee && assignee != agent) || (id == chosen && !document.hidden)) return;
    alerts.call({ isNew, id, name: nameOf(id), text: lastMessage.content, open: () => choose(id) });
  });
}

/** Closes an earlier agent's connection, once all that was written over it is sent. */
function retire(connection) {
  if (connection != inbox && ![...leaving.values()].some((element) => element.connection == connection)) connection.close();
}

const put = (element, text) => element.textContent == text || (element.textContent = text);

/** Shows everything that is known now. */
function show() {
  const open = widget?.getAttribute("state");
  const isLost = chats.reached === false || inbox?.state == "waiting" || !navigator.onLine;
  if (isLost || (chats.reached && inbox.state == "open")) listLine.tell(!isLost);
  if (open == "open" || open == "waiting") chatLine.tell(open == "open");
  if (open == "open" && !document.hidden) chats.see(chosen);

  queue.show();
  const unread = queue.of("open").reduce((sum, chat) => sum + chats.unread(chat), 0);
  $("total").hidden = !unread;
  put($("total"), String(unread));
  $("total").ariaLabel = `${unread} unread`;
  alerts.count(unread);

  put($("list-state"), listLine.text);
  $("list-state").classList.toggle("lost", listLine.isLost);
  showHead(open);
  $("replies").hidden = !widget || open == "closed";
  const lost = listLine.isLost || (widget && chatLine.isLost);
  const state = lost ? "lost" : chats.reached && inbox?.state == "open" && (!widget || open == "open" || open == "closed") ? "open" : "connecting";
  $("state").dataset.state = state;
  put($("state").firstElementChild, { lost: navigator.onLine ? "Reconnecting" : "Offline", open: "Connected", connecting: "Connecting" }[state]);
}

function showHead(open) {
  const chat = chats.get(chosen);
  const isClosed = chat?.status == "closed";
  const usual = isClosed ? "Closed, until the customer writes again" : `Chat ${chosen}`;
  put($("about"), failure || (open == "closed" ? "This chat has been closed." : (widget && chatLine.text) || usual));
  $("about").classList.toggle("lost", !!failure || chatLine.isLost);
  for (const name of ["assign", "close"]) $(name).hidden = !chat || isClosed;
  const does = !chat?.assignee ? "Assign to me" : chat.assignee == agent ? "Release" : "Take over";
  put($("assign").lastElementChild, does);
  $("assign").title = `${does} (a)`;
  showPresence(widget?.chat?.online ?? []);
}

/** Who is in the open chat; nobody, not even this agent: that isn't known. */
function showPresence(online) {
  const isHere = online.some(({ role }) => role == "user");
  const others = online.filter(({ role, userId }) => role != "user" && userId != agent).map(({ userId }) => desk.nameOf(userId));
  $("presence").hidden = !online.length;
  $("presence").classList.toggle("here", isHere);
  put($("presence"), (isHere ? "Here now" : "Away") + (others.length ? ` · with ${others.join(", ")}` : ""));
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
  chatLine.text = failure = "";
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
    "token-url": tokenUrl(),
    "history-url": "/api/chats/{chatId}/messages?limit=1000",
    "chat-id": id,
    spread: 2000,
    theme: document.documentElement.dataset.theme,
  };
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.connection = inbox;
  element.texts = { title: `Chat with ${nameOf(id)}`, empty: "Nothing has been said yet.", someone: "The customer", user: nameOf(id), placeholder: "Write an answer…" };
  element.addEventListener("state", () => {
    if (element == widget) show();
  });
  $("pane").append(element);
  element.chat.on("presence", show);
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
    retire(element.connection);
  };
  chat.on("outbox", () => queueMicrotask(end));
  end();
}

/** Puts the open chat away, and shows the list alone. */
function back() {
  const from = chosen;
  leave();
  delete document.body.dataset.chat;
  $("blank").hidden = false;
  $("pane").hidden = $("talk-head").hidden = true;
  replies.close();
  show();
  queue.focus(from);
}
$("back").addEventListener("click", back);

/** Does something with the open chat on the server. */
async function change(what, body) {
  const id = chosen;
  failure = "";
  try {
    await chats.change(id, what, body);
  } catch {
    if (id == chosen) failure = "That failed. Try again.";
    show();
  }
}
const isOpen = () => !!chosen && chats.get(chosen)?.status == "open";
const assign = () => isOpen() && change("assign", { agentId: chats.get(chosen).assignee == agent ? null : agent });
const close = () => isOpen() && change("close");
$("assign").addEventListener("click", assign);
$("close").addEventListener("click", close);

listen({
  j: () => queue.next(1),
  k: () => queue.next(-1),
  a: assign,
  e: close,
  s: () => {
    if (getComputedStyle($("search")).display != "none") $("search").focus();
  },
  r: () => field()?.focus(),
  "/": () => replies.open(),
});

// The agents

$("agent").addEventListener("change", ({ target }) => {
  agent = target.value;
  remember("localStorage", "desk:agent", agent);
  const again = chosen;
  leave();
  leaving.get(again)?.remove(); // what waits in it is stored, and goes on with the next element
  leaving.delete(again);
  listenToInbox();
  choose(again);
  show();
});

async function loadAgents() {
  try {
    const { agents } = await ask("/api/agents");
    for (const { id, name } of agents) names.set(id, name);
    $("agent").replaceChildren(...agents.map(({ id, name }) => new Option(name, id, id == agent, id == agent)));
    show();
  } catch {
    setTimeout(loadAgents, AGAIN);
  }
}
$("agent").append(new Option(agent, agent));
document.addEventListener("visibilitychange", show);
listenToInbox();
loadAgents();
chats.load();
choose(asked.get("chat"));
show();
