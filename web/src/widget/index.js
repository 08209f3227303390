// <eclipse-chat token-url="/api/ws/token" chat-id="42"></eclipse-chat>. Why it is as it is: docs/widget.md
import { connect } from "../client/index.js";

const TEXTS = {
  title: "Chat with us",
  subtitle: "We usually reply within minutes",
  open: "Open the chat",
  close: "Close the chat",
  messages: "Messages",
  placeholder: "Write a message…",
  send: "Send",
  empty: "Hello! How can we help?",
  connecting: "Connecting…",
  offline: "Reconnecting… What you write is kept and sent.",
  ended: "This chat has been closed.",
  historyFailed: "Earlier messages could not be loaded.",
  sending: "Sending…",
  sent: "Sent",
  unsent: "Not sent.",
  failed: "Not sent. Tap to try again.",
  tooLong: "Not sent: it is too long.",
  discard: "Delete",
  unknown: "This may not have been sent. Tap to send it again.",
  full: "Too many messages are waiting.",
  joined: "{name} joined the chat",
  typing: "{name} is typing…",
  someone: "Someone",
  you: "You",
  agent: "Agent",
  assistant: "Assistant",
  user: "Visitor",
  today: "Today",
  yesterday: "Yesterday",
  latest: "New messages",
  newest: "Latest messages",
  unread: "{n} unread",
};
const DRAWN = 120;
const PHONE = "(max-width:480px),(max-height:480px) and (pointer:coarse)";

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host{--a:var(--eclipse-accent,#4f46e5);--at:var(--eclipse-accent-text,#fff);--bg:var(--eclipse-background,#fff);--fg:var(--eclipse-text,#1b1b2b);--mu:var(--eclipse-muted,#5d5d70);--su:var(--eclipse-surface,#f1f1f7);--li:var(--eclipse-line,#e3e3ec);--er:#b42318;--r:var(--eclipse-radius,18px);
font:15px/1.45 var(--eclipse-font,system-ui,sans-serif);color:var(--fg);display:block;color-scheme:light}
:host([hidden]){display:none}
:host([dark]){--bg:var(--eclipse-background,#17171f);--fg:var(--eclipse-text,#ececf4);--mu:var(--eclipse-muted,#a9a9bd);--su:var(--eclipse-surface,#262633);--li:var(--eclipse-line,#343444);--er:#ff9b8f;color-scheme:dark}
:host(:not([inline])){position:fixed;z-index:var(--eclipse-layer,2147483000);inset-block-end:calc(var(--eclipse-offset,20px) + env(safe-area-inset-bottom));inset-inline-end:calc(var(--eclipse-offset,20px) + env(safe-area-inset-right))}
:host([inline]){height:100%;min-height:0}
*{box-sizing:border-box;margin:0}
button{font:inherit;color:inherit;border:0;background:none;padding:0;cursor:pointer}
:focus-visible{outline:3px solid var(--a);outline-offset:2px}
.launch{display:grid;place-items:center;width:60px;height:60px;border-radius:50%;background:var(--a);color:var(--at);box-shadow:0 6px 24px #0004}
.launch:focus-visible{outline-color:var(--fg)}
svg{width:26px;height:26px;fill:none;stroke:currentColor;stroke-width:2;stroke-linecap:round;stroke-linejoin:round;display:block}
.badge{position:absolute;inset-block-start:-4px;inset-inline-end:-4px;min-width:22px;padding:0 6px;border-radius:11px;background:#c81e1e;color:#fff;font:600 13px/22px system-ui}
.panel{border:0;padding:0;max-width:none;max-height:none;color:inherit;background:var(--bg);overflow:hidden;flex-direction:column}
.panel[open],section.panel{display:flex}
section.panel{height:100%}
dialog{position:absolute;inset-block:auto 0;inset-inline:auto 0;width:min(var(--eclipse-width,384px),calc(100vw - 40px));height:min(var(--eclipse-height,620px),calc(100dvh - 40px));border-radius:var(--r);box-shadow:0 12px 48px #0005,0 0 0 1px var(--li)}
dialog[open]{animation:rise .18s ease-out}
dialog::backdrop{background:none}
@keyframes rise{from{opacity:0;transform:translateY(12px)}}
.head{display:flex;align-items:center;gap:12px;padding:14px 16px;padding-block-start:max(14px,env(safe-area-inset-top));background:var(--a);color:var(--at)}
.head>div{flex:1;min-width:0}
h2{font-size:16px;line-height:1.3}
h2,.head p,.who{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.head p{font-size:13px}
.head :focus-visible{outline-color:var(--at)}
.x,.send{width:40px;height:40px;display:grid;place-items:center;border-radius:50%;flex:none}
.x:hover{background:#0003}
.x svg,.send svg{width:20px;height:20px}
.notice{padding:8px 16px;font-size:13px;background:var(--su)}
[hidden]{display:none!important}
.mid{flex:1;min-height:0;position:relative}
.log{height:100%;overflow-y:auto;overscroll-behavior:contain;padding:12px 16px;overflow-anchor:none;outline-offset:-3px}
ol{list-style:none;padding:0;display:flex;flex-direction:column;min-height:100%;justify-content:flex-end}
li{display:flex;flex-direction:column;align-items:flex-start;margin-block-start:2px}
li.first{margin-block-start:12px}
.me{align-items:flex-end}
.who,.meta,.day,.joined,.typing{font-size:12px;color:var(--mu)}
.who{margin:0 4px 3px;max-width:100%}
.bubble{max-width:85%;padding:8px 13px;border-radius:var(--r);border-end-start-radius:5px;background:var(--su);white-space:pre-wrap;overflow-wrap:anywhere;text-align:start;unicode-bidi:plaintext}
.me .bubble{background:var(--a);color:var(--at);border-end-start-radius:var(--r);border-end-end-radius:5px}
.bubble a{color:inherit;unicode-bidi:plaintext;text-underline-offset:2px}
.me .bubble :focus-visible{outline-color:var(--at)}
.wait .bubble{filter:saturate(.5)}
.meta{margin:3px 4px 0}
.meta,.joined{unicode-bidi:plaintext}
.bad{display:flex;flex-wrap:wrap;justify-content:flex-end;align-items:center;gap:0 10px;color:var(--er)}
.meta button{text-decoration:underline;min-height:24px;min-width:24px}
.meta :last-child{color:var(--mu)}
.day,.joined{align-items:center;margin-block:14px 4px}
.empty{color:var(--mu);text-align:center;padding:24px;margin:auto}
.latest{position:absolute;inset-block-end:10px;inset-inline:0;margin:auto;width:fit-content;padding:6px 14px;border-radius:16px;background:var(--fg);color:var(--bg);font-size:13px;box-shadow:0 2px 10px #0004}
.typing{display:flex;align-items:center;gap:8px;padding:0 20px 6px}
.typing span{display:flex;gap:3px}
.typing i{width:6px;height:6px;border-radius:50%;background:currentColor;animation:blink 1.2s infinite}
.typing i+i{animation-delay:.2s}.typing i+i+i{animation-delay:.4s}
@keyframes blink{40%{opacity:.25;transform:translateY(-2px)}}
form{display:flex;align-items:flex-end;gap:8px;padding:10px 12px;padding-block-end:max(10px,env(safe-area-inset-bottom));border-block-start:1px solid var(--li)}
textarea{flex:1;min-width:0;resize:none;font:inherit;font-size:16px;line-height:1.4;color:inherit;background:var(--su);border:1px solid transparent;border-radius:20px;padding:8px 14px;max-height:132px;height:40px}
textarea::placeholder{color:var(--mu);opacity:1}
.send{background:var(--a);color:var(--at)}
.send[aria-disabled=true]{background:var(--su);color:var(--mu)}
.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media ${PHONE}{dialog{position:fixed;padding:0 env(safe-area-inset-right) 0 env(safe-area-inset-left);inset:0;inset-block-start:var(--top,0);width:100%;height:var(--full,100dvh);border-radius:0}}
@media(prefers-reduced-motion:reduce){*{animation:none!important}}
@media(forced-colors:active){.bubble,.launch,textarea,.send{border:1px solid}}
`);

// Strings become text nodes: markup is never parsed.
const h = (name, attributes, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) if (value != null && value !== false) element.setAttribute(key, value === true ? "" : value);
  element.className ||= attributes?.part?.split(" ")[0] ?? "";
  element.append(...children);
  return element;
};
const icon = (path) => {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(ns, "path"));
  svg.firstChild.setAttribute("d", path);
  return svg;
};

// An address ends before a sentence's punctuation, and before what turns the direction: it reads as it leads.
const BREAK = "\\s<>\"'()\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069";
const LINK = RegExp(`(https?://(?:\\([^${BREAK}]*\\)|[^${BREAK}])*(?:\\([^${BREAK}]*\\)|[^${BREAK}.,;:!?\\]}…]))`, "i");
const linked = (text) =>
  text.split(LINK).map((part, i) => {
    if (!(i % 2)) return part;
    try {
      const { href, username, password } = new URL(part);
      if (!username && !password) return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" }, part);
    } catch {}
    return part;
  });

const mend = (row, made) => {
  for (const { name, value } of made.attributes) row.setAttribute(name, value);
  const [old, parts] = [[...row.childNodes], [...made.childNodes]];
  parts.forEach((part, i) => (old[i] ? old[i].isEqualNode(part) || old[i].replaceWith(part) : row.append(part)));
  for (const part of old.slice(parts.length)) part.remove();
};

export class EclipseChatElement extends HTMLElement {
  static observedAttributes = ["chat-id", "token-url", "theme", "texts"];
  chat;
  unread = 0;
  #texts = TEXTS;
  #rows = new Map();
  #order = []; // by the application's clock, then by id: one order for everyone
  #alias = new Map(); // id -> clientMessageId: a saved bubble stays the same element
  #drawn = new Map();
  #end = 0;
  #stuck = true;
  #ui;
  #frame = 0;
  #titled = "";
  #read;
  #typists = new Map();
  #noticeTimer;
  #told = {};
  #met;
  #lost;
  #loaded = 0;
  #dark = matchMedia("(prefers-color-scheme: dark)");
  #narrow = matchMedia(PHONE);

  set texts(texts) {
    this.#texts = { ...TEXTS, ...texts };
    if (this.#ui) this.#label();
  }

  get texts() {
    return this.#texts;
  }

  get isOpen() {
    return !!this.#ui && (this.hasAttribute("inline") || this.#ui.panel.open);
  }

  connectedCallback() {
    if (!this.#ui) this.#build();
    const { signal } = (this.#lost = new AbortController());
    const on = (target, type, does) => target?.addEventListener(type, does, { signal });
    on(this.#dark, "change", () => this.#theme());
    on(document, "visibilitychange", () => this.#see());
    on(window, "storage", ({ key, newValue }) => key == this.#readKey && this.#reckon(newValue));
    for (const type of ["resize", "scroll"]) on(visualViewport, type, () => this.#fit());
    this.#theme();
    if (!this.hasAttribute("lazy") || this.hasAttribute("inline")) this.#start();
    if (this.hasAttribute("open")) this.open();
  }

  disconnectedCallback() {
    this.#lost.abort();
    this.#stop();
  }

  attributeChangedCallback(name, old, value) {
    if (name == "texts") {
      try {
        this.texts = JSON.parse(value ?? "{}");
      } catch {
        console.error('<eclipse-chat>: texts is no JSON');
      }
    } else if (this.isConnected && this.#ui && old != value) {
      if (name == "theme") return this.#theme();
      const running = this.chat;
      this.#stop();
      if (running) this.#start();
    }
  }

  open() {
    if (!this.isConnected || this.isOpen) return;
    const { panel, launch, input, log } = this.#ui;
    this.#start();
    if (!this.chat) console.error("<eclipse-chat> needs the attributes token-url and chat-id");
    this.#fit();
    this.#narrow.matches ? panel.showModal() : panel.show();
    launch.setAttribute("aria-expanded", "true");
    launch.hidden = true;
    this.#stuck = true;
    this.#draw();
    (matchMedia("(pointer: coarse)").matches ? log : input).focus();
    this.#see();
    this.dispatchEvent(new CustomEvent("open"));
  }

  close() {
    if (this.hasAttribute("inline") || !this.isOpen) return;
    this.#ui.panel.close();
  }

  send(text) {
    this.#start();
    this.chat.send(text);
    this.#stuck = true;
  }

  #build() {
    const root = this.attachShadow({ mode: "open" });
    const inline = this.hasAttribute("inline");
    root.adoptedStyleSheets = [sheet];
    const ui = (this.#ui = {
      badge: h("span", { part: "badge", "aria-hidden": "true", hidden: true }),
      title: h("h2", { id: "t", part: "title" }),
      subtitle: h("p", { part: "subtitle" }),
      x: h("button", { class: "x", part: "close" }, icon("M6 6l12 12M18 6L6 18")),
      notice: h("p", { part: "notice", role: "status", hidden: true }),
      list: h("ol", { role: "list" }),
      latest: h("button", { part: "latest", hidden: true }),
      dots: h("p", { part: "typing", hidden: true }, h("span", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span")),
      input: h("textarea", { part: "input", rows: 1, maxlength: 100_000, enterkeyhint: "send" }),
      button: h("button", { part: "send" }, icon("M12 20V5M5 12l7-7 7 7")),
      said: h("div", { class: "sr", role: "status", "aria-live": "polite", "aria-atomic": "false" }),
    });
    ui.launch = h("button", { class: "launch", part: "launcher", "aria-haspopup": "dialog", "aria-expanded": "false", hidden: inline }, icon("M21 12a8 8 0 0 1-8 8H4l1.7-3.4A8 8 0 1 1 21 12zM9 12h.01M13 12h.01M17 12h.01"), ui.badge);
    ui.log = h("div", { part: "log", role: "group", tabindex: 0 }, ui.list);
    ui.form = h("form", { part: "composer" }, ui.input, ui.button);
    const header = h("div", { class: "head", part: "header", hidden: inline }, h("div", {}, ui.title, ui.subtitle), ui.x);
    const rest = [header, ui.notice, h("div", { class: "mid" }, ui.log, ui.latest), ui.dots, ui.form];
    ui.panel = h(inline ? "section" : "dialog", { part: "panel", "aria-labelledby": "t" }, ...rest);
    root.append(ui.launch, ui.panel, ui.said);
    this.#label();

    ui.launch.onclick = () => this.open();
    ui.x.onclick = () => this.close();
    ui.panel.addEventListener("close", () => {
      ui.launch.hidden = false;
      ui.launch.setAttribute("aria-expanded", "false");
      ui.launch.focus();
      this.dispatchEvent(new CustomEvent("close"));
    });
    ui.panel.addEventListener("keydown", (e) => e.key == "Escape" && !e.isComposing && (e.stopPropagation(), this.close()));
    ui.form.onsubmit = (e) => (e.preventDefault(), this.#submit());
    ui.input.onkeydown = (e) => {
      // 229: composition, which some browsers end before Enter
      if (e.key != "Enter" || e.shiftKey || e.isComposing || e.keyCode == 229) return;
      e.preventDefault();
      this.#submit();
    };
    ui.input.oninput = () => {
      this.#grow();
      this.#draft(ui.input.value);
      this.chat?.typing(!!ui.input.value.trim());
    };
    ui.log.onscroll = () => {
      const { scrollTop, scrollHeight, clientHeight } = ui.log;
      const below = scrollHeight - scrollTop - clientHeight;
      const all = this.#order.length;
      this.#stuck = below < 60 && (this.#stuck || this.#end == all);
      if (!this.#stuck && scrollTop < 400 && this.#end > DRAWN) this.#end = Math.max(DRAWN, this.#end - 60);
      else if (below < 400) this.#end = Math.min(all, this.#end + 60);
      this.#draw();
    };
    new ResizeObserver(() => this.#stuck && (ui.log.scrollTop = ui.log.scrollHeight)).observe(ui.log);
    ui.latest.onclick = () => {
      this.#stuck = true;
      this.#draw();
      ui.input.focus();
    };
    ui.list.onclick = (e) => {
      const { id, does } = e.target.closest?.("[data-does]")?.dataset ?? {};
      if (!id) return;
      this.chat[does](id);
      ui.input.focus();
    };
  }

  #label() {
    const t = this.#texts;
    const { title, subtitle, x, log, input, button } = this.#ui;
    title.textContent = t.title;
    subtitle.textContent = t.subtitle;
    input.placeholder = t.placeholder;
    this.#call();
    for (const [element, text] of [[x, t.close], [log, t.messages], [input, t.placeholder], [button, t.send]]) element.setAttribute("aria-label", text);
    this.#grow();
    this.#drawn.clear();
    this.#ui.list.replaceChildren();
    this.#draw();
  }

  #call() {
    const { open, unread } = this.#texts;
    this.#ui.launch.setAttribute("aria-label", open + (this.unread ? `, ${unread.replace("{n}", this.unread)}` : ""));
  }

  #theme() {
    const theme = this.getAttribute("theme");
    this.toggleAttribute("dark", theme == "dark" || (theme != "light" && this.#dark.matches));
  }

  #fit() {
    const { height, offsetTop } = visualViewport;
    if (!this.#narrow.matches) return;
    for (const [name, px] of [["full", height], ["top", offsetTop]]) this.#ui.panel.style.setProperty("--" + name, px + "px");
  }

  #grow() {
    const { input, button } = this.#ui;
    input.style.height = "auto";
    input.dir = input.value ? "auto" : "";
    if (input.scrollHeight) input.style.height = `${input.scrollHeight + 2}px`;
    button.setAttribute("aria-disabled", String(!input.value.trim()));
  }

  #draft(text) {
    try {
      const name = "eclipse-chat:draft:" + this.getAttribute("chat-id");
      if (text == null) return sessionStorage.getItem(name) ?? "";
      text ? sessionStorage.setItem(name, text) : sessionStorage.removeItem(name);
    } catch {}
    return "";
  }

  #start() {
    const tokenUrl = this.getAttribute("token-url");
    const chatId = this.getAttribute("chat-id");
    if (this.chat || !tokenUrl || !chatId) return;
    const role = (this.getAttribute("as") ?? "user").toUpperCase();
    const { input } = this.#ui;
    const spread = +(this.getAttribute("spread") ?? 20_000);
    const chat = (this.chat = connect({ tokenUrl: new URL(tokenUrl, document.baseURI), chatId, role, spread, url: this.getAttribute("url") ?? undefined }));
    if (!input.value && (input.value = this.#draft())) this.#grow();
    chat.on("state", () => this.#state());
    chat.on("reload", () => this.#load());
    chat.on("outbox", () => this.#draw());
    chat.on("failed", (failure) => this.#say(this.#why(failure)));
    chat.on("sent", ({ clientMessageId, id }) => {
      this.#notice("full");
      this.#alias.set(id, clientMessageId);
      if (!this.#rows.has(id)) this.#saved.set(clientMessageId, id);
      this.#draw();
    });
    chat.on("message", ({ data }) => this.#take(data, true));
    chat.on("message_updated", ({ data }) => this.#take(data, false));
    chat.on("agent_joined", ({ data, timestamp }) => {
      const at = data?.timestamp ?? timestamp;
      const name = String(data?.agentName || this.#texts.agent);
      this.#put({ key: `joined ${at} ${data?.agentId}`, at: Date.parse(at) || Date.now(), joined: name, sender: { id: data?.agentId, name } });
      this.#say(this.#texts.joined.replace("{name}", () => name));
    });
    chat.on("typing", ({ data }) => data && data.userId != chat.userId && this.#types(data.userId, data.isTyping));
    this.#state();
    // The history is asked for once connected, so that nothing falls between; but not later.
    setTimeout(() => chat == this.chat && !this.#loaded && this.#load(), 1_500);
  }

  #stop() {
    this.chat?.close();
    this.chat = undefined;
    this.#loaded = 0;
    this.#stuck = true;
    for (const kept of [this.#rows, this.#alias, this.#typists, this.#drawn, this.#saved]) kept.clear();
    this.#order = [];
    this.#ui.list.replaceChildren();
    this.#ui.said.replaceChildren();
    this.#ui.input.value = "";
    this.#count(0);
    this.#types();
    this.#told = {};
    this.#notice();
    this.#read = this.#met = undefined;
  }

  #saved = new Map();
  #bubbles = new Map();

  async #load() {
    const chat = this.chat;
    const url = this.getAttribute("history-url") ?? "/api/chats/{chatId}/messages";
    const turn = ++this.#loaded;
    if (url == "none") return;
    const base = new URL(this.getAttribute("token-url"), document.baseURI);
    for (let wait = 1_000; chat == this.chat && turn == this.#loaded; wait = Math.min(wait * 2, 30_000)) {
      try {
        const signal = AbortSignal.timeout(10_000);
        const answer = await fetch(new URL(url.replace("{chatId}", encodeURIComponent(this.getAttribute("chat-id"))), base), { signal, cache: "no-store" });
        if (answer.status == 404 || answer.status == 403) return this.#notice("history");
        const { messages } = await answer.json();
        if (chat != this.chat) return;
        chat.history(messages);
        for (const message of messages) this.#take(message, false);
        let kept;
        try {
          kept = localStorage.getItem(this.#readKey);
        } catch {}
        this.#reckon(kept ?? NaN, messages);
        return this.#notice("history");
      } catch {
        if (wait > 2_000) this.#notice("history", this.#texts.historyFailed);
        await new Promise((done) => setTimeout(done, wait * (0.5 + Math.random())));
      }
    }
  }

  #mine(message) {
    return message.role == (this.getAttribute("as") ?? "user").toLowerCase();
  }

  #take(data, live) {
    if (!data?.id || typeof data.content != "string") return;
    const known = this.#rows.get((data.id += "")); // events have text
    if (known?.content == data.content && known.updatedAt == data.updatedAt) return;
    const message = { ...known, ...data, key: data.id, role: String(data.role).toLowerCase() };
    message.at = Date.parse(data.createdAt ?? data.timestamp) || known?.at || Date.now();
    this.#put(message);
    if (!live || known || this.#mine(message)) return;
    this.#types(message.sender?.id, false);
    if (!this.#seeing) this.#count(this.unread + 1);
    this.#say(`${this.#name(message)}: ${message.content}`);
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  #put(row) {
    const known = this.#rows.get(row.key);
    this.#rows.set(row.key, row);
    const order = this.#order;
    const older = ({ at, key }) => at < row.at || (at == row.at && key < row.key);
    if (known?.at == row.at) order[order.indexOf(known)] = row;
    else {
      if (known) order.splice(order.indexOf(known), 1);
      let i = order.length;
      while (i && !older(order[i - 1])) i--;
      order.splice(i, 0, row);
      if (i < this.#end) this.#end++;
    }
    this.#draw();
  }

  #name(message) {
    return message.sender?.name || message.sender?.email || this.#texts[message.role] || message.role;
  }

  #why({ code }) {
    const t = this.#texts;
    return /too_long/.test(code) ? t.tooLong : code == "outcome_unknown" ? t.unknown : t.failed;
  }

  #submit() {
    const { input } = this.#ui;
    const text = input.value.trim();
    if (!text || !this.chat) return;
    try {
      this.send(text);
    } catch {
      return this.#notice("full", this.#texts.full);
    }
    input.value = this.#draft("");
    this.#grow();
    input.focus();
  }

  #state() {
    const { state } = this.chat;
    const t = this.#texts;
    const { form, log } = this.#ui;
    const over = state == "closed";
    if (state == "open") this.#met = true;
    // Only a cut that lasts is told.
    if (state == "open" || over) this.#noticeTimer = clearTimeout(this.#noticeTimer);
    else this.#noticeTimer ??= setTimeout(() => this.#notice("link", this.#met ? t.offline : t.connecting), 2_500);
    if (!this.#noticeTimer) this.#notice("link", over ? t.ended : "");
    if (over && form.contains(this.shadowRoot.activeElement)) log.focus();
    form.hidden = over;
    if (state != "open") this.#types();
    this.#draw();
    this.setAttribute("state", state);
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #notice(about, text = "") {
    const { notice } = this.#ui;
    this.#told[about] = text;
    const { full, link, history } = this.#told;
    const shown = full || link || history || "";
    notice.hidden = !shown;
    if (notice.textContent != shown) notice.textContent = shown;
  }

  #say(text) {
    const { said } = this.#ui;
    if (!this.isOpen) return;
    said.append(h("p", {}, text.slice(0, 500)));
    while (said.childElementCount > 5) said.firstChild.remove();
  }

  #types(userId, on) {
    if (userId === undefined) for (const id of [...this.#typists.keys()]) this.#types(id, false);
    clearTimeout(this.#typists.get(userId));
    this.#typists.delete(userId);
    if (on && this.#typists.size < 50) this.#typists.set(userId, setTimeout(() => this.#types(userId, false), 6_000));
    const [first] = this.#typists.keys();
    const spoke = this.#order.findLast((row) => row.sender?.id == first);
    this.#ui.dots.hidden = !first;
    this.#ui.dots.lastChild.textContent = this.#texts.typing.replace("{name}", () => (spoke ? this.#name(spoke) : this.#texts.someone));
    this.#draw();
  }

  get #seeing() {
    return this.isOpen && !document.hidden && this.#stuck;
  }

  get #readKey() {
    return "eclipse-chat:read:" + this.getAttribute("chat-id");
  }

  #see() {
    if (!this.#seeing) return;
    this.#count(0);
    this.#keep(this.#order.findLast((row) => !row.joined)?.at);
  }

  #keep(at) {
    if (!(at > (this.#read ?? -1))) return;
    this.#read = at;
    try {
      if (!this.hasAttribute("inline")) localStorage.setItem(this.#readKey, at);
    } catch {}
  }

  #reckon(kept, history = []) {
    if (+kept > (this.#read ?? -1)) this.#read = +kept;
    else if (this.#read === undefined) this.#keep(history.reduce((at, { id }) => Math.max(at, this.#rows.get(id)?.at ?? 0), 0));
    if (this.#seeing) return;
    let n = 0;
    for (const row of this.#order) n += row.at > this.#read && !row.joined && !this.#mine(row);
    this.#count(history.length ? Math.max(n, this.unread) : n);
  }

  #count(n) {
    if (n == this.unread) return;
    this.unread = n;
    const { badge } = this.#ui;
    badge.hidden = !n;
    badge.textContent = n > 99 ? "99+" : n;
    this.#call();
    this.dispatchEvent(new CustomEvent("unread", { detail: n }));
    if (this.hasAttribute("no-title")) return;
    const { title } = document;
    const own = this.#titled && title.startsWith(this.#titled) ? title.slice(this.#titled.length).trim() : title;
    this.#titled = n ? `(${n})` : "";
    document.title = `${this.#titled} ${own}`.trim();
  }

  #draw() {
    if (this.#frame) return;
    const draw = () => {
      this.#frame = 0;
      if (this.isOpen) this.#render();
    };
    this.#frame = document.hidden ? setTimeout(draw) : requestAnimationFrame(draw);
  }

  #visible() {
    if (this.#stuck) this.#end = this.#order.length;
    const rows = this.#order.slice(Math.max(0, this.#end - DRAWN), this.#end);
    if (this.#end < this.#order.length) return rows;
    const pending = new Map(this.chat?.pending.map((i) => [i.clientMessageId, i]));
    for (const [key, item] of new Map([...this.#bubbles, ...pending])) {
      const id = pending.has(key) ? item.id : this.#saved.get(key);
      const there = this.#rows.has(id);
      this.#bubbles.set(key, item);
      if (pending.has(key) ? !there : id && !there) {
        rows.push({ ...item, key, waiting: pending.has(key) ? item.status : "sent", role: item.role.toLowerCase(), at: Infinity });
      } else if (!pending.has(key)) {
        this.#bubbles.delete(key);
        this.#saved.delete(key);
      }
    }
    return rows;
  }

  #render() {
    const { list, log, latest } = this.#ui;
    const t = this.#texts;
    const top = (element) => element.getBoundingClientRect().top;
    const held = this.shadowRoot.activeElement;
    const anchor = [...list.children].find((element) => element.dataset.id && top(element) >= top(log));
    const was = anchor && top(anchor);
    const rows = this.#visible();
    const now = new Date().setHours(0, 0, 0, 0);
    const over = this.chat?.state == "closed";
    const plan = [];
    const place = (...row) => plan.push(row);
    if (!rows.some((row) => !row.joined)) place("empty", t.empty, () => h("li", { part: "empty" }, t.empty));
    rows.forEach((row, i) => {
      const last = rows[i - 1];
      const next = rows[i + 1];
      const day = (r) => (r?.at < Infinity ? new Date(r.at).setHours(0, 0, 0, 0) : now);
      if (row.at < Infinity && (!last || day(last) != day(row))) {
        const name = day(row) == now ? t.today : now - day(row) <= 9e7 && day(row) < now ? t.yesterday : new Date(row.at).toLocaleDateString(this.#lang, { dateStyle: "full" });
        place(`day ${day(row)}`, name, () => h("li", { part: "day" }, name));
      }
      if (row.joined) {
        const text = t.joined.replace("{name}", () => `\u2068${row.joined}\u2069`);
        return place(row.key, text, () => h("li", { part: "joined" }, text));
      }
      const same = (a, b) => a && b && !a.joined && !b.joined && a.role == b.role && (a.waiting || b.waiting || a.sender?.id == b.sender?.id) && day(a) == day(b) && !(Math.abs(a.at - b.at) > 300_000 && a.at < Infinity && b.at < Infinity);
      const me = this.#mine(row);
      const first = !same(last, row);
      const final = !same(row, next);
      const key = this.#alias.get(row.key) ?? row.key;
      place(key, [first, final, over, row.waiting, row.code, row.content, row.updatedAt, this.#name(row)].join("\0"), () => {
        const failed = row.waiting == "failed";
        const time = row.at < Infinity ? new Date(row.at).toLocaleTimeString(this.#lang, { timeStyle: "short" }) : "";
        const does = (name, text) => h("button", { part: name, "data-id": key, "data-does": name }, text);
        const status = over && row.waiting && row.waiting != "sent" ? [t.unsent]
          : failed ? [/too_long/.test(row.code) ? h("span", {}, this.#why(row)) : does("retry", this.#why(row)), does("discard", t.discard)]
          : [row.waiting ? (row.waiting == "sent" ? t.sent : t.sending) : me && this.#alias.has(row.key) ? `${time} · ${t.sent}` : time];
        return h("li", { class: `${me ? "me" : "them"}${first ? " first" : ""}${row.waiting && row.waiting != "sent" ? " wait" : ""}`, "data-id": row.waiting ? null : row.key },
          !me && first ? h("span", { class: "who", part: "name", dir: "auto" }, this.#name(row)) : h("span", { class: "sr" }, (me ? t.you : this.#name(row)) + ": "),
          h("div", { part: `bubble ${me ? "mine" : "theirs"}` }, ...linked(row.content)),
          ...(failed || final ? [h("span", { class: failed ? "meta bad" : "meta", part: "meta" }, ...status)] : []));
      });
    });
    const keep = new Map(plan);
    for (const [key, element] of this.#drawn) {
      if (keep.has(key)) continue;
      element.remove();
      this.#drawn.delete(key);
    }
    let spot = list.firstElementChild;
    for (const [key, mark, make] of plan) {
      let element = this.#drawn.get(key);
      if (!element) this.#drawn.set(key, (element = make()));
      else if (element.mark != mark) mend(element, make());
      Object.assign(element, { key, mark });
      if (element == spot) spot = spot.nextElementSibling;
      else list.insertBefore(element, spot);
    }
    if (held && !held.isConnected) log.focus({ preventScroll: true });
    if (this.#stuck) log.scrollTop = log.scrollHeight;
    else if (anchor) log.scrollTop += top(this.#drawn.get(anchor.key) ?? log) - was;
    this.#see();
    latest.hidden = this.#stuck;
    const way = (this.unread ? t.latest : t.newest) + " ↓";
    if (latest.textContent != way) latest.textContent = way;
  }

  get #lang() {
    return this.closest("[lang]")?.lang || undefined;
  }
}

if (!customElements.get("eclipse-chat")) customElements.define("eclipse-chat", EclipseChatElement);
