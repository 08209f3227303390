import { Conversation, settingsOf } from "./conversation.ts";
import { focused, isField, oncePerFrame } from "./dom.ts";
import { Draft } from "./draft.ts";
import type { EclipseChatElementEventMap } from "./events.ts";
import { Launcher } from "./launcher.ts";
import { LiveRegion } from "./live-region.ts";
import { Loader, loadView } from "./load.ts";
import { PropertiesElement } from "./properties.ts";
import { sheetOf } from "./stylesheet.ts";
import launcherStyles from "./styles/launcher.css";
import themeStyles from "./styles/theme.css";
import type { Texts } from "./texts/en.ts";
import { addEnglish } from "./texts/index.ts";
import { countInTitle } from "./title.ts";
import type { EclipseChat, State } from "./types.ts";
import type { View } from "./view.ts";
import { Wording } from "./wording.ts";
import { nameOf, reason } from "./words.ts";

const INCOMPLETE = "<eclipse-chat> needs the attributes token-url, which has to be a URL, and chat-id";
/** All elements share it. A server that renders a page can't make one. */
let stylesheet: CSSStyleSheet | undefined;

/**
 * `<eclipse-chat>`: one chat, as a panel over the page or, `inline`, inside it. What pages see of it is in index.ts. It keeps the connection and
 * the launcher; the panel is the view's, which is loaded when it is first opened.
 */
export class ChatElement extends PropertiesElement {
  #conversation: Conversation | undefined;
  #connection: EclipseChat | undefined;
  #wording = new Wording(this, () => this.#label());
  #draft = new Draft();
  #launcher: Launcher | undefined;
  #said = new LiveRegion();
  #view: View | undefined;
  #loader = new Loader({
    busy: (isBusy) => (this.#launcher!.isBusy = isBusy),
    isWanted: () => this.isConnected && this.#isWanted,
    loaded: (view) => this.#loaded(view),
    failed: (failure) => {
      const { inline } = this;
      if (!inline) this.hide();
      this.#emit("error", failure);
      return inline; // who can't press the launcher again should not have to
    },
  });
  /** What had the focus when the panel was asked for: where it still is, the panel may take it. */
  #focus: HTMLElement | undefined;
  #wasOpen = false;
  #isStale = false;
  #draw = oncePerFrame(() => this.#render());
  #listeners = new AbortController();
  #dark = matchMedia("(prefers-color-scheme: dark)");

  get chat(): EclipseChat | undefined {
    this.#settle();
    return this.#conversation?.chat;
  }

  get connection(): EclipseChat | undefined {
    return this.#connection;
  }

  set connection(client: EclipseChat | null | undefined) {
    if (client == this.#connection) return;
    this.#connection = client ?? undefined;
    if (this.isConnected && this.#launcher) this.#change();
  }

  get unread(): number {
    this.#settle();
    return this.#unread;
  }

  get isOpen(): boolean {
    return !!this.#view?.isOpen;
  }

  get texts(): Texts {
    return this.#wording.texts;
  }

  set texts(given: Partial<Texts> | string | null | undefined) {
    this.#wording.give(given);
  }

  get draft(): string {
    this.#settle();
    return this.#draft.text;
  }

  set draft(text: string) {
    this.#settle();
    this.#draft.text = String(text ?? "");
    this.#draw();
  }

  override connectedCallback(): void {
    this.#change();
    super.connectedCallback();
    if (!this.#launcher) {
      this.attachShadow({ mode: "open" }).adoptedStyleSheets = [(stylesheet ??= sheetOf(themeStyles + launcherStyles))];
      this.#place();
    }
    this.#wording.refresh();
    this.#attach();
  }

  /** A page that moves it with `moveBefore()` wants nothing else to happen. */
  connectedMoveCallback(): void {}

  disconnectedCallback(): void {
    this.#listeners.abort();
    this.#loader.end();
    this.#view?.close();
    this.#stop();
  }

  attributeChangedCallback(name: string, old: string | null, value: string | null): void {
    if (old == value) return;
    if (name == "texts") this.texts = value;
    if (!this.isConnected || !this.#launcher) return;
    if (name == "open") this.#follow();
    else if (name == "theme") this.#theme();
    else if (name == "no-title") this.#title();
    else if (name == "inline") {
      this.#place();
      this.#attach();
    } else if (name == "lazy") this.#start();
    else if (!/texts|side/.test(name)) this.#change();
  }

  send(text: string): void {
    this.#settle();
    this.#start(true);
    if (!this.#conversation) throw new Error(INCOMPLETE);
    this.#conversation.chat.send(text);
    this.#conversation.timeline.following = true;
  }

  get #unread(): number {
    return this.#conversation?.unread.count ?? 0;
  }

  /** Whether somebody wants to see the chat, even if the view is still on its way. */
  get #isWanted(): boolean {
    return this.inline || this.open;
  }

  /** Open or close the panel as the attribute says. */
  #follow(takesFocus = true): void {
    const { open } = this;
    const view = this.#view;
    if (this.#isWanted && !view) {
      this.#focus = takesFocus ? focused(this) : undefined;
      this.#begin();
      this.#loader.load(this.#wording.load());
    }
    if (this.inline || !view) return;
    if (!open) view.close();
    else if (!view.isOpen) {
      view.open(takesFocus && !isField(focused(this)));
      this.#begin();
      this.#render();
    }
    // Later, because a framework may be in the middle of rendering.
    if (open != this.#wasOpen) queueMicrotask(() => this.#emit(open ? "open" : "close", null));
    this.#wasOpen = open;
  }

  /** The chat is asked for: connect if it was lazy, and show the end of it. */
  #begin(): void {
    const conversation = this.#conversation;
    if (conversation) {
      conversation.timeline.following = true;
      conversation.load();
    } else if (!this.#loader.isLoading) this.#change();
  }

  #loaded({ View, english }: typeof import("./view.ts")): void {
    addEnglish(english);
    this.#view = new View(this.shadowRoot!, this.#draft, {
      submit: (text) => this.#submit(text),
      restart: () => {
        if (this.#emit("restart", null, true)) this.#change();
        this.#settle();
        this.#render();
      },
      say: (text) => this.#said.say(text),
      changed: this.#draw,
      closed: () => this.hide(),
    });
    this.#wording.refresh();
    this.#view.place(this.#launcher!);
    this.#view.attach(this.#listeners.signal);
    this.#follow(focused(this) == this.#focus);
    this.#draw();
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
    this.#start(wasRunning || this.#isWanted);
    if (this.isConnected && this.open && !this.#conversation) console.error(INCOMPLETE);
  }

  /** Make the launcher anew: over the page, or inside it. */
  #place(): void {
    const launcher = (this.#launcher = new Launcher(this.inline, this.#said.element, {
      press: () => this.show(),
      approach: () => void loadView().catch(() => {}), // the person who presses it is told
    }));
    this.#view?.place(launcher);
    this.shadowRoot!.replaceChildren(launcher.layer);
    this.#label();
  }

  /** Begin, in a page or with another launcher: what the last one has listened to is heard no more. */
  #attach(): void {
    this.#listeners.abort();
    const { signal } = (this.#listeners = new AbortController());
    this.#dark.addEventListener("change", () => this.#theme(), { signal });
    const look = () => {
      this.#conversation?.see();
      this.#draw(); // it may be another day
    };
    document.addEventListener("visibilitychange", look, { signal });
    window.addEventListener("storage", (event) => this.#conversation?.unread.stored(event), { signal });
    for (const type of ["online", "offline"]) window.addEventListener(type, this.#draw, { signal });
    this.#theme();
    this.#launcher!.attach(signal);
    this.#view?.attach(signal);
    this.#follow(false);
    this.#start();
  }

  #label(): void {
    this.#launcher?.label(this.texts, this.#unread);
    this.#draw();
  }

  #theme(): void {
    this.#launcher!.layer.classList.toggle("dark", this.theme == "dark" || (this.theme != "light" && this.#dark.matches));
  }

  /** Connect, unless the element is lazy and nobody has asked for the chat. */
  #start(isAsked = this.#isWanted): void {
    if ((this.lazy && !isAsked) || !this.isConnected || this.#conversation || this.#isStale) return;
    const settings = settingsOf(this, this.#connection);
    this.#draft.begin(settings?.chatId ?? "");
    this.#view?.showDraft();
    if (!settings) return;
    const { chat } = (this.#conversation = new Conversation(settings, {
      changed: this.#draw,
      arrived: (row) => {
        this.#said.say(`${nameOf(row, this.texts)}: ${row.content}`, row.key);
        this.#emit("message", row);
      },
      joined: (row) => this.#said.say(this.texts.joined.replace("{name}", () => nameOf(row, this.texts))),
      deleted: (key) => this.#said.forget(key),
      counted: () => this.#count(),
      isWanted: () => this.#isWanted,
      isShown: () => this.isOpen && !document.hidden && this.#launcher!.isDisplayed,
      isKept: () => !this.inline,
    }));
    chat.on("state", ({ state }) => this.#state(state));
    chat.on("failed", ({ code }) => this.#said.say(reason(code, this.texts)));
    chat.on("error", (failure) => this.#emit("error", failure));
    this.#state(chat.state);
  }

  #stop(): void {
    const conversation = this.#conversation;
    this.#conversation = undefined;
    conversation?.end();
    this.#said.clear();
    this.#draw();
    this.removeAttribute("state");
  }

  #submit(text: string): boolean {
    if (!this.chat) return false;
    try {
      this.send(text);
      return true;
    } catch (error) {
      this.#conversation!.isFull = error instanceof RangeError;
      this.#draw();
      return false;
    }
  }

  #state(state: State): void {
    this.setAttribute("state", state);
    this.#emit("state", state);
  }

  #count(): void {
    this.#launcher!.label(this.texts, this.#unread);
    this.#emit("unread", this.#unread);
    this.#title();
  }

  #title(): void {
    countInTitle(this, this.noTitle ? 0 : this.#unread);
  }

  #render(): void {
    if (!this.isOpen) return;
    this.#wording.load();
    const { texts, language } = this.#wording;
    this.#view!.render({ conversation: this.#conversation, texts, language, unread: this.#unread });
    this.#conversation?.see();
  }

  /** Answers whether nobody has prevented the default. */
  #emit<Type extends keyof EclipseChatElementEventMap>(type: Type, detail: EclipseChatElementEventMap[Type]["detail"], cancelable = false): boolean {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable }));
  }
}
