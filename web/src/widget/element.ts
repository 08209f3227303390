import { Composer } from "./composer.ts";
import { Conversation } from "./conversation.ts";
import { h, setText } from "./dom.ts";
import { peopleOf } from "./header.ts";
import { MessageList } from "./message-list.ts";
import { Notice } from "./notice.ts";
import { Panel } from "./panel.ts";
import { attributes, reflect, takeOver, type Properties } from "./properties.ts";
import { nameOf, reason, type Look } from "./row.ts";
import { stylesheet } from "./stylesheet.ts";
import type { Texts } from "./texts/en.ts";
import { languageOf, loadTexts, textsIn } from "./texts/index.ts";
import { Timeline } from "./timeline.ts";
import type { EclipseChat, Role, Row, State } from "./types.ts";
import { countInTitle, ReadMark } from "./unread.ts";

const INCOMPLETE = "<eclipse-chat> needs the attributes token-url and chat-id";

export interface EclipseChatElement extends Properties {}

/** `<eclipse-chat>`: one chat, as a panel over the page or, `inline`, inside it. Its attributes are in docs/widget.md. */
export class EclipseChatElement extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = [...attributes, "texts"];
  #conversation: Conversation | undefined;
  /** What is unread, by its keys. */
  #news = new Set<string>();
  #unread = 0;
  #texts: Texts = textsIn("en");
  /** Those that the page has given. */
  #ownTexts: Partial<Texts> = {};
  #language: string | undefined;
  #mark = new ReadMark("");
  #list!: MessageList;
  #composer = new Composer({
    submit: (text) => this.#submit(text),
    typing: (isTyping) => this.#conversation?.chat.typing(isTyping),
    changed: () => this.#tell(),
  });
  #panel: Panel | undefined;
  #notice = new Notice(() => this.#tell());
  #dots = h("p", { part: "typing", hidden: true }, h("span", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span"));
  #restart = h("button", { part: "restart", hidden: true });
  #said = h("div", { class: "sr", role: "status", "aria-live": "polite", "aria-atomic": "false" });
  #wasOpen = false;
  #isStale = false;
  #frame = 0;
  #listeners = new AbortController();
  #dark = matchMedia("(prefers-color-scheme: dark)");

  /** The client; undefined while there is no connection to keep. */
  get chat(): EclipseChat | undefined {
    this.#settle();
    return this.#conversation?.chat;
  }

  get unread(): number {
    return this.#unread;
  }

  /** Whether messages can be seen: always if `inline`. */
  get isOpen(): boolean {
    return !!this.#panel?.isOpen;
  }

  get texts(): Texts {
    return this.#texts;
  }

  /** Replace some texts, by an object or its JSON; the others are those of the page's language. */
  set texts(given: Partial<Texts> | string | null | undefined) {
    let own = given;
    try {
      if (typeof own == "string") own = JSON.parse(own || "{}") as Partial<Texts>;
    } catch {
      console.error("<eclipse-chat>: texts is not valid JSON");
      return;
    }
    this.#ownTexts = Object.fromEntries(Object.entries(own ?? {}).filter(([, text]) => typeof text == "string"));
    this.#translate();
  }

  /** The text in the field. */
  get draft(): string {
    return this.#composer.text;
  }

  set draft(text: string) {
    this.#composer.text = text ?? "";
  }

  connectedCallback(): void {
    this.#change();
    takeOver(this);
    if (!this.#panel) this.#build();
    this.#translate();
    const { signal } = (this.#listeners = new AbortController());
    this.#dark.addEventListener("change", () => this.#theme(), { signal });
    document.addEventListener("visibilitychange", () => this.#see(), { signal });
    window.addEventListener("storage", ({ key, newValue }) => newValue && this.#mark.isNamed(key) && this.#reckon(newValue), { signal });
    for (const type of ["online", "offline"]) window.addEventListener(type, () => this.#tell(), { signal });
    for (const type of ["resize", "scroll"]) visualViewport?.addEventListener(type, () => this.#panel!.fit(), { signal });
    this.#theme();
    this.#attach();
  }

  disconnectedCallback(): void {
    this.#listeners.abort();
    this.#panel!.close(false);
    this.#stop();
  }

  attributeChangedCallback(name: string, old: string | null, value: string | null): void {
    if (old == value) return;
    if (name == "texts") this.texts = value;
    if (!this.isConnected || !this.#panel) return;
    if (name == "open") this.#follow();
    else if (name == "theme") this.#theme();
    else if (name == "no-title") this.#title();
    else if (name == "inline") {
      this.#place();
      this.#attach();
    } else if (name == "lazy") this.#start();
    else if (!/texts|side/.test(name)) this.#change();
  }

  show(): void {
    this.open = true;
  }

  hide(): void {
    this.open = false;
  }

  send(text: string): void {
    this.#settle();
    this.#start(true);
    if (!this.#conversation) throw new Error(INCOMPLETE);
    this.#conversation.chat.send(text);
    this.#conversation.timeline.following = true;
  }

  /** Open or close the panel as the attribute says. */
  #follow(takesFocus = true): void {
    const { open } = this;
    if (this.inline) return;
    if (!open) this.#panel!.close(false);
    else if (!this.isOpen) {
      // A keyboard isn't opened over the messages unasked.
      const target = matchMedia("(pointer: coarse)").matches ? this.#list.log : this.#composer.input;
      this.#panel!.open(takesFocus ? target : undefined);
      if (this.#conversation) {
        this.#conversation.timeline.following = true;
        this.#conversation.load();
      } else this.#change();
      this.#draw();
      this.#see();
    }
    // Later, because a framework may be in the middle of rendering.
    if (open != this.#wasOpen) queueMicrotask(() => this.dispatchEvent(new CustomEvent(open ? "open" : "close")));
    this.#wasOpen = open;
  }

  /** Connect anew before anything else happens, once for all changes of a turn. */
  #change(): void {
    if (!this.#isStale) queueMicrotask(() => this.#settle());
    this.#isStale = true;
  }

  #settle(): void {
    if (!this.#isStale) return;
    this.#isStale = false;
    const wasRunning = !!this.#conversation;
    this.#stop();
    this.#start(wasRunning || this.isOpen);
    if (this.isConnected && this.open && !this.#conversation) console.error(INCOMPLETE);
  }

  #build(): void {
    this.#list = new MessageList(new Timeline(), {
      scroll: () => this.#draw(),
      latest: () => {
        this.#conversation!.timeline.following = true;
        this.#draw();
        this.#composer.input.focus();
      },
      action: (does, key) => {
        const { chat } = this.#conversation!;
        const text = does == "retry" ? chat.retry(key) && "" : chat.discard(key);
        // What is being written stays, below it.
        if (does == "edit") this.draft = [text, this.draft].filter((part) => part.trim()).join("\n");
        this.#composer.input.focus();
      },
    });
    this.#restart.onclick = () => {
      if (this.dispatchEvent(new CustomEvent("restart", { cancelable: true }))) this.#change();
      this.#settle();
      this.#composer.input.focus();
    };
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [stylesheet()];
    this.#place();
  }

  /** Put the conversation into a panel, over the page or inside it. */
  #place(): void {
    const content = [this.#notice.element, this.#list.element, this.#dots, this.#composer.element, this.#restart];
    this.#panel?.close(false);
    this.#panel = new Panel(this.inline, content, this.#said, { open: () => this.show(), closed: () => this.hide() });
    this.shadowRoot!.replaceChildren(this.#panel.layer);
    this.#label();
  }

  #attach(): void {
    this.#panel!.attach(this.#listeners.signal);
    this.#follow(false);
    this.#start();
  }

  #translate(): void {
    const texts = { ...textsIn(languageOf(this)), ...this.#ownTexts };
    // Frameworks set equal objects with every rendering.
    if (JSON.stringify(texts) == JSON.stringify(this.#texts)) return;
    this.#texts = texts;
    if (this.#panel) this.#label();
  }

  #label(): void {
    const texts = this.#texts;
    this.#panel!.label(texts, this.unread);
    this.#list.log.setAttribute("aria-label", texts.messages);
    this.#composer.label(texts.placeholder, texts.send);
    setText(this.#restart, texts.restart);
    this.#tell();
    this.#list.redraw();
    this.#draw();
  }

  #theme(): void {
    this.toggleAttribute("dark", this.theme == "dark" || (this.theme != "light" && this.#dark.matches));
  }

  /** Connect, unless the element is lazy and nobody has asked for the chat. */
  #start(isAsked = this.isOpen): void {
    const { tokenUrl, chatId, spread, url, historyUrl } = this;
    if ((this.lazy && !isAsked) || !this.isConnected || this.#conversation || this.#isStale || !tokenUrl || !chatId) return;
    const base = new URL(tokenUrl, document.baseURI);
    const settings = {
      tokenUrl: base,
      chatId,
      role: this.as.toUpperCase() as Role,
      spread,
      url: url || undefined,
      historyUrl: historyUrl == "none" ? undefined : new URL(historyUrl.replace("{chatId}", () => encodeURIComponent(chatId)), base),
    };
    this.#mark = new ReadMark(chatId);
    this.#composer.begin(chatId);
    const conversation = (this.#conversation = new Conversation(settings, {
      changed: () => this.#draw(),
      typing: () => this.#tellTyping(),
      arrived: (row) => this.#arrived(row),
      joined: (row) => this.#say(this.#texts.joined.replace("{name}", () => row.joined!)),
      agentName: () => this.#texts.agent,
      deleted: (key) => {
        for (const said of [...this.#said.children]) if ((said as HTMLElement).dataset.id == key) said.remove();
        this.#news.delete(key);
        this.#count();
      },
      loaded: (rows) => this.#reckon(this.#mark.stored(), rows),
      isHistoryWanted: () => this.isOpen || this.#mark.stored() != null,
    }));
    this.#list.timeline = conversation.timeline;
    const { chat } = conversation;
    chat.on("state", ({ state }) => this.#state(state));
    chat.on("sent", () => {
      this.#notice.isFull = false;
      this.#tell();
    });
    chat.on("failed", ({ code }) => this.#say(reason(code, this.#texts)));
    chat.on("error", (failure) => {
      this.#notice.error(failure);
      this.dispatchEvent(new CustomEvent("error", { detail: failure }));
    });
    this.#state(chat.state);
  }

  #stop(): void {
    const conversation = this.#conversation;
    this.#conversation = undefined;
    conversation?.end();
    this.#notice.reset();
    this.#list.timeline = new Timeline();
    this.#said.replaceChildren();
    this.#composer.element.hidden = !(this.#restart.hidden = true);
    this.#news.clear();
    this.#count();
    this.#tell();
    this.removeAttribute("state");
  }

  #arrived(row: Row): void {
    if (!this.#isSeeing) {
      if (!this.#mark.adopt(this.#mark.stored())) this.#mark.set(row.at - 1, !this.inline);
      this.#news.add(row.key);
      this.#count();
    }
    this.#say(`${nameOf(row, this.#texts)}: ${row.content}`, row.key);
    this.dispatchEvent(new CustomEvent("message", { detail: row }));
  }

  #submit(text: string): boolean {
    if (!this.chat) return false;
    try {
      this.send(text);
      return true;
    } catch {
      this.#notice.isFull = true;
      this.#tell();
      return false;
    }
  }

  #state(state: State): void {
    const isOver = state == "closed" && !!this.#conversation; // and not left for another chat
    if (isOver && this.#composer.element.contains(this.shadowRoot!.activeElement)) this.#list.log.focus();
    this.#composer.element.hidden = isOver;
    this.#restart.hidden = !isOver;
    this.#notice.state(state);
    if (state != "open") this.#conversation?.typists.clear();
    this.#draw();
    this.setAttribute("state", state);
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #tell(): void {
    const conversation = this.#conversation;
    this.#notice.show(this.#texts, conversation?.chat.state, this.#composer.excess, !!conversation?.isIncomplete);
  }

  /** Let screen readers say it: texts are added, since replacing one would cut it short. */
  #say(text: string, key?: string): void {
    this.#said.append(h("p", { "data-id": key }, text.slice(0, 500)));
    while (this.#said.childElementCount > 5) this.#said.firstChild!.remove();
  }

  #tellTyping(): void {
    const { typists, timeline } = this.#conversation ?? {};
    const texts = this.#texts;
    const first = typists?.first;
    const spoke = first && timeline!.order.findLast((row) => row.sender?.id == first);
    this.#dots.hidden = !first;
    setText(this.#dots.lastElementChild!, texts.typing.replace("{name}", () => (spoke ? nameOf(spoke, texts) : texts.someone)));
    this.#draw();
  }

  get #isSeeing(): boolean {
    return this.isOpen && !document.hidden && !!this.#conversation?.timeline.following;
  }

  /** The reader is at the end, and looks: everything has been read. */
  #see(): void {
    if (!this.#isSeeing) return;
    this.#news.clear();
    this.#count();
    this.#mark.set(this.#conversation!.timeline.order.findLast((row) => !row.joined)?.at, !this.inline);
  }

  /** Count what is unread by what the storage remembers. In a browser that is new to a chat, its history counts for nothing. */
  #reckon(stored: string | null, history?: Row[]): void {
    const conversation = this.#conversation;
    if (!this.#mark.adopt(stored)) this.#mark.set((history ?? []).reduce((latest, { at }) => Math.max(latest, at), 0), !this.inline);
    if (this.#isSeeing || !conversation) return;
    if (!history) this.#news.clear();
    for (const row of conversation.timeline.order)
      if (this.#mark.isBefore(row) && !row.joined && !row.isDeleted && !conversation.isMine(row)) this.#news.add(row.key);
    this.#count();
  }

  #count(): void {
    const n = this.#news.size;
    if (n == this.unread) return;
    this.#unread = n;
    this.#panel!.count(this.#texts, n);
    this.dispatchEvent(new CustomEvent("unread", { detail: n }));
    this.#title();
  }

  #title(): void {
    countInTitle(this, this.noTitle ? 0 : this.unread);
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
    const texts = this.#texts;
    const look: Look = {
      texts,
      language,
      isMine: (row) => !!this.#conversation?.isMine(row),
      isOver: this.#conversation?.chat.state == "closed",
    };
    this.#tell();
    this.#panel!.header.people(peopleOf(this.#conversation?.timeline.order ?? [], look), texts);
    this.#list.render(this.#conversation?.chat.pending ?? [], this.#unread, look);
    this.#see();
  }
}

reflect(EclipseChatElement.prototype);
