import { connect } from "../client/index.ts";
import { Composer } from "./composer.ts";
import { h, setText } from "./dom.ts";
import { peopleOf } from "./header.ts";
import { loadHistory, type SavedMessage } from "./history.ts";
import { MessageList } from "./message-list.ts";
import { Panel } from "./panel.ts";
import { nameOf, reason, type Look } from "./row.ts";
import { stylesheet } from "./stylesheet.ts";
import type { Texts } from "./texts/en.ts";
import { languageOf, loadTexts, textsIn } from "./texts/index.ts";
import { Timeline } from "./timeline.ts";
import type { EclipseChat, Message, Role, Row } from "./types.ts";
import { Typists } from "./typists.ts";
import { countInTitle, ReadMark } from "./unread.ts";

/** What the notice can be about; the first that has something to say wins. */
type Subject = "full" | "link" | "history";

/** `<eclipse-chat>`: one chat, as a panel over the page or, `inline`, inside it. Its attributes are in docs/widget.md. */
export class EclipseChatElement extends HTMLElement {
  static observedAttributes = ["chat-id", "token-url", "theme", "texts"];
  chat: EclipseChat | undefined;
  unread = 0;
  #texts: Texts = textsIn("en");
  #ownTexts: Partial<Texts> = {};
  #language: string | undefined;
  #timeline = new Timeline();
  #mark = new ReadMark("");
  #typists = new Typists(() => this.#tellTyping());
  #list!: MessageList;
  #composer!: Composer;
  #panel: Panel | undefined;
  #notice = h("p", { part: "notice", role: "status", hidden: true });
  #dots = h("p", { part: "typing", hidden: true }, h("span", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span"));
  #said = h("div", { class: "sr", role: "status", "aria-live": "polite", "aria-atomic": "false" });
  #notices: Partial<Record<Subject, string>> = {};
  #noticeTimer: ReturnType<typeof setTimeout> | undefined;
  #wasConnected = false;
  #loads = 0;
  #frame = 0;
  #listeners = new AbortController();
  #dark = matchMedia("(prefers-color-scheme: dark)");

  get texts(): Texts {
    return this.#texts;
  }

  set texts(texts: Partial<Texts>) {
    this.#ownTexts = texts;
    this.#translate();
  }

  get isOpen(): boolean {
    return !!this.#panel?.isOpen;
  }

  connectedCallback(): void {
    if (!this.#panel) this.#build();
    this.#translate();
    const { signal } = (this.#listeners = new AbortController());
    this.#dark.addEventListener("change", () => this.#theme(), { signal });
    document.addEventListener("visibilitychange", () => this.#see(), { signal });
    window.addEventListener("storage", ({ key, newValue }) => this.#mark.isNamed(key) && this.#reckon(newValue), { signal });
    for (const type of ["resize", "scroll"]) visualViewport?.addEventListener(type, () => this.#panel!.fit(), { signal });
    this.#panel!.attach(signal);
    this.#theme();
    if (!this.hasAttribute("lazy") || this.hasAttribute("inline")) this.#start();
    if (this.hasAttribute("open")) this.open(false);
  }

  disconnectedCallback(): void {
    this.#listeners.abort();
    this.#stop();
  }

  attributeChangedCallback(name: string, old: string | null, value: string | null): void {
    if (name == "texts") {
      try {
        this.texts = JSON.parse(value ?? "{}");
      } catch {
        console.error("<eclipse-chat>: texts is no JSON");
      }
    } else if (this.isConnected && this.#panel && old != value) {
      if (name == "theme") return this.#theme();
      const wasRunning = this.chat;
      this.#stop();
      if (wasRunning) this.#start();
    }
  }

  open(takesFocus = true): void {
    if (!this.isConnected || this.isOpen) return;
    this.#start();
    if (!this.chat) console.error("<eclipse-chat> needs the attributes token-url and chat-id");
    // A keyboard isn't opened over the messages unasked.
    this.#panel!.open(!takesFocus ? undefined : matchMedia("(pointer: coarse)").matches ? this.#list.log : this.#composer.input);
    this.#timeline.following = true;
    this.#draw();
    this.#see();
    this.dispatchEvent(new CustomEvent("open"));
  }

  close(): void {
    if (this.isOpen) this.#panel!.close();
  }

  send(text: string): void {
    this.#start();
    this.chat!.send(text);
    this.#timeline.following = true;
  }

  #build(): void {
    this.#composer = new Composer({ submit: (text) => this.#submit(text), typing: (isTyping) => this.chat?.typing(isTyping) });
    this.#list = new MessageList(this.#timeline, {
      scroll: () => this.#draw(),
      latest: () => {
        this.#timeline.following = true;
        this.#draw();
        this.#composer.input.focus();
      },
      action: (does, key) => {
        if (does == "retry") this.chat?.retry(key);
        else this.chat?.discard(key);
        this.#composer.input.focus();
      },
    });
    this.#panel = new Panel(this.hasAttribute("inline"), [this.#notice, this.#list.element, this.#dots, this.#composer.element], this.#said, {
      open: () => this.open(),
      closed: () => this.dispatchEvent(new CustomEvent("close")),
    });
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [stylesheet()];
    root.append(this.#panel.layer);
  }

  #translate(): void {
    this.#texts = { ...textsIn(languageOf(this)), ...this.#ownTexts };
    if (this.#panel) this.#label();
  }

  #label(): void {
    const texts = this.#texts;
    this.#panel!.label(texts, this.unread);
    this.#list.log.setAttribute("aria-label", texts.messages);
    this.#composer.label(texts.placeholder, texts.send);
    this.#list.redraw();
    this.#draw();
  }

  #theme(): void {
    const theme = this.getAttribute("theme");
    this.toggleAttribute("dark", theme == "dark" || (theme != "light" && this.#dark.matches));
  }

  #start(): void {
    const tokenUrl = this.getAttribute("token-url");
    const chatId = this.getAttribute("chat-id");
    if (this.chat || !tokenUrl || !chatId) return;
    const chat: EclipseChat = (this.chat = connect({
      tokenUrl: new URL(tokenUrl, document.baseURI),
      chatId,
      role: (this.getAttribute("as") ?? "user").toUpperCase() as Role,
      spread: +(this.getAttribute("spread") ?? 20_000),
      url: this.getAttribute("url") ?? undefined,
    }));
    this.#mark = new ReadMark(chatId);
    this.#composer.begin(chatId);
    chat.on("state", () => this.#state());
    chat.on("reload", () => this.#load());
    chat.on("outbox", () => this.#draw());
    chat.on("failed", ({ code }) => this.#say(reason(code, this.#texts)));
    chat.on("sent", ({ clientMessageId, id }) => {
      this.#tell("full");
      this.#timeline.sent(clientMessageId, id);
      this.#draw();
    });
    chat.on("message", ({ data }) => this.#take(data, true));
    chat.on("message_updated", ({ data }) => this.#take(data, false));
    chat.on("agent_joined", ({ data, timestamp }) => {
      const at = data?.timestamp ?? timestamp;
      const name = String(data?.agentName || this.#texts.agent);
      const sender = { id: data?.agentId, name };
      this.#timeline.put({ key: `joined ${at} ${data?.agentId}`, at: Date.parse(at) || Date.now(), role: "", content: "", joined: name, sender });
      this.#draw();
      this.#say(this.#texts.joined.replace("{name}", () => name));
    });
    chat.on("typing", ({ data }) => data && data.userId != chat.userId && this.#typists.set(data.userId, data.isTyping));
    this.#state();
    // The history is asked for once connected, so that nothing falls between; but not later.
    setTimeout(() => chat == this.chat && !this.#loads && this.#load(), 1_500);
  }

  #stop(): void {
    this.chat?.close();
    this.chat = undefined;
    this.#loads = 0;
    this.#list.timeline = this.#timeline = new Timeline();
    this.#said.replaceChildren();
    this.#composer.clear();
    this.#count(0);
    this.#typists.clear();
    this.#notices = {};
    this.#tell("link");
    this.#wasConnected = false;
  }

  async #load(): Promise<void> {
    const chat = this.chat!;
    const turn = ++this.#loads;
    const template = this.getAttribute("history-url") ?? "/api/chats/{chatId}/messages";
    if (template == "none") return;
    const base = new URL(this.getAttribute("token-url")!, document.baseURI);
    const url = new URL(template.replace("{chatId}", encodeURIComponent(this.getAttribute("chat-id")!)), base);
    const isWanted = () => chat == this.chat && turn == this.#loads;
    const messages = await loadHistory(url, isWanted, () => this.#tell("history", this.#texts.historyFailed));
    if (!messages || !isWanted()) return;
    chat.history(messages);
    for (const message of messages) this.#take(message, false);
    this.#reckon(this.#mark.stored(), messages);
    this.#tell("history");
  }

  #isMine(row: { role: string }): boolean {
    return row.role == (this.getAttribute("as") ?? "user").toLowerCase();
  }

  #take(data: Message | SavedMessage, isLive: boolean): void {
    if (!data?.id || typeof data.content != "string") return;
    const key = String(data.id); // events have text
    const known = this.#timeline.get(key);
    if (known?.content == data.content && known.updatedAt == data.updatedAt) return;
    const saved = "createdAt" in data ? data.createdAt : undefined;
    const at = Date.parse(saved ?? data.timestamp ?? "") || known?.at || Date.now();
    const row: Row = { ...known, ...data, key, at, role: String(data.role).toLowerCase() };
    this.#timeline.put(row);
    this.#draw();
    if (!isLive || known || this.#isMine(row)) return;
    if (row.sender?.id) this.#typists.set(row.sender.id, false);
    if (!this.#isSeeing) this.#count(this.unread + 1);
    this.#say(`${nameOf(row, this.#texts)}: ${row.content}`);
    this.dispatchEvent(new CustomEvent("message", { detail: row }));
  }

  #submit(text: string): boolean {
    if (!this.chat) return false;
    try {
      this.send(text);
      return true;
    } catch {
      this.#tell("full", this.#texts.full);
      return false;
    }
  }

  #state(): void {
    const { state } = this.chat!;
    const texts = this.#texts;
    const isOver = state == "closed";
    if (state == "open") this.#wasConnected = true;
    // Only a cut that lasts is told.
    if (state == "open" || isOver) this.#noticeTimer = void clearTimeout(this.#noticeTimer);
    else this.#noticeTimer ??= setTimeout(() => this.#tell("link", this.#wasConnected ? texts.offline : texts.connecting), 2_500);
    if (!this.#noticeTimer) this.#tell("link", isOver ? texts.ended : "");
    if (isOver && this.#composer.element.contains(this.shadowRoot!.activeElement)) this.#list.log.focus();
    this.#composer.element.hidden = isOver;
    if (state != "open") this.#typists.clear();
    this.#draw();
    this.setAttribute("state", state);
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #tell(subject: Subject, text = ""): void {
    this.#notices[subject] = text;
    const { full, link, history } = this.#notices;
    const shown = full || link || history || "";
    this.#notice.hidden = !shown;
    setText(this.#notice, shown);
  }

  /** Let screen readers say it: texts are added, since replacing one would cut it short. */
  #say(text: string): void {
    this.#said.append(h("p", {}, text.slice(0, 500)));
    while (this.#said.childElementCount > 5) this.#said.firstChild!.remove();
  }

  #tellTyping(): void {
    const { first } = this.#typists;
    const texts = this.#texts;
    const spoke = this.#timeline.order.findLast((row) => row.sender?.id == first);
    this.#dots.hidden = !first;
    setText(this.#dots.lastElementChild!, texts.typing.replace("{name}", () => (spoke ? nameOf(spoke, texts) : texts.someone)));
    this.#draw();
  }

  get #isSeeing(): boolean {
    return this.isOpen && !document.hidden && this.#timeline.following;
  }

  /** The reader is at the end, and looks: everything has been read. */
  #see(): void {
    if (!this.#isSeeing) return;
    this.#count(0);
    this.#mark.set(this.#timeline.order.findLast((row) => !row.joined)?.at, !this.hasAttribute("inline"));
  }

  /** Count what is unread by what the storage remembers. In a browser that is new to a chat, its history counts for nothing. */
  #reckon(stored: string | null, history: SavedMessage[] = []): void {
    if (!this.#mark.adopt(stored)) {
      const latest = history.reduce((at, { id }) => Math.max(at, this.#timeline.get(String(id))?.at ?? 0), 0);
      this.#mark.set(latest, !this.hasAttribute("inline"));
    }
    if (this.#isSeeing) return;
    const n = this.#timeline.order.filter((row) => this.#mark.isBefore(row) && !row.joined && !this.#isMine(row)).length;
    this.#count(history.length ? Math.max(n, this.unread) : n);
  }

  #count(n: number): void {
    if (n == this.unread) return;
    this.unread = n;
    this.#panel!.count(this.#texts, n);
    this.dispatchEvent(new CustomEvent("unread", { detail: n }));
    if (!this.hasAttribute("no-title")) countInTitle(n);
  }

  /** Draw once, with the next frame; frames don't come to hidden pages. */
  #draw(): void {
    if (this.#frame) return;
    const draw = () => {
      this.#frame = 0;
      if (this.isOpen) this.#render();
    };
    this.#frame = document.hidden ? +setTimeout(draw) : requestAnimationFrame(draw);
  }

  #render(): void {
    const language = languageOf(this);
    if (language != this.#language) {
      this.#language = language;
      this.#translate();
      loadTexts(language).then(() => this.#translate());
    }
    const look: Look = {
      texts: this.#texts,
      language,
      isMine: (row) => this.#isMine(row),
      isOver: this.chat?.state == "closed",
    };
    this.#panel!.header.people(peopleOf(this.#timeline.order, look), this.#texts);
    this.#list.render(this.chat?.pending ?? [], this.unread, look);
    this.#see();
  }
}
