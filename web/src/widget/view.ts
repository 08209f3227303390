// What is needed once somebody opens the chat: a file of its own, which load.ts loads. The element hands the view what there is to show
// with each rendering, and hears by callbacks what the person does.
import { Composer } from "./composer.ts";
import { h, setText } from "./dom.ts";
import type { Draft } from "./draft.ts";
import type { Launcher } from "./launcher.ts";
import { MessageList } from "./message-list.ts";
import { noticeOf } from "./notice.ts";
import { Panel } from "./panel.ts";
import { KEPT_MS, Presence, seenIn } from "./presence.ts";
import type { Scene } from "./scene.ts";
import { sheetOf } from "./stylesheet.ts";
import composerStyles from "./styles/composer.css";
import headerStyles from "./styles/header.css";
import messagesStyles from "./styles/messages.css";
import panelStyles from "./styles/panel.css";
import { isolated, nameOf } from "./words.ts";

export { english } from "./texts/en.ts";

declare const BUILD: string;
/** load.ts compares it with its own. */
export const build = BUILD;

/** What the person does. */
export interface Actions {
  /** Answers whether the text was taken. */
  submit(text: string): boolean;
  restart(): void;
  /** Let screen readers say it. */
  say(text: string): void;
  /** Something else is to be seen: render again. */
  changed(): void;
  /** The panel was closed by the person, or by the browser. */
  closed(): void;
}

const stylesheet = sheetOf(panelStyles + headerStyles + messagesStyles + composerStyles);

/** The panel and everything in it. */
export class View {
  readonly #on: Actions;
  readonly #notice = h("p", { part: "notice", role: "status", hidden: true });
  readonly #list: MessageList;
  readonly #dots = h("p", { part: "typing", hidden: true }, h("span", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span"));
  readonly #people = h("p", { part: "presence", hidden: true });
  readonly #presence = new Presence();
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #again = () => {
    this.#timer = undefined;
    this.#on.changed();
  };
  readonly #composer: Composer;
  readonly #restart = h("button", { part: "restart", hidden: true });
  #panel: Panel | undefined;
  #scene: Scene | undefined;

  constructor(root: ShadowRoot, draft: Draft, on: Actions) {
    this.#on = on;
    const chat = () => this.#scene!.conversation!.chat;
    const composer = (this.#composer = new Composer(draft, {
      submit: on.submit,
      typing: (isTyping) => this.#scene?.conversation?.chat.typing(isTyping),
      changed: () => this.#tell(),
    }));
    this.#list = new MessageList({
      scroll: on.changed,
      latest: () => {
        this.#scene!.conversation!.timeline.following = true;
        on.changed();
        composer.input.focus();
      },
      action: (does, key) => {
        const text = does == "retry" ? chat().retry(key) && "" : chat().discard(key);
        // What is being written stays, below it.
        if (does == "edit") composer.write([text, draft.text].filter((part) => part.trim()).join("\n"));
        composer.input.focus();
      },
    });
    this.#restart.onclick = () => {
      on.restart();
      composer.input.focus();
    };
    root.adoptedStyleSheets.push(stylesheet);
  }

  get isOpen(): boolean {
    return !!this.#panel?.isOpen;
  }

  /** Put the conversation into a panel beside this launcher: over the page or inside it. */
  place(launcher: Launcher): void {
    this.#panel?.close(false);
    const content = [this.#notice, this.#list.element, this.#people, this.#dots, this.#composer.element, this.#restart];
    this.#panel = new Panel(launcher, content, this.#on.closed);
    this.#label();
  }

  /** The element is in a page, perhaps once more, until `signal` is aborted. */
  attach(signal: AbortSignal): void {
    this.#panel!.attach(signal);
  }

  open(takesFocus: boolean): void {
    // A keyboard isn't opened over the messages unasked.
    const target = matchMedia("(pointer: coarse)").matches ? this.#list.log : this.#composer.input;
    this.#panel!.open(takesFocus ? target : undefined);
    this.#composer.grow();
  }

  /** Another chat's draft has to be in the field before anything is typed or sent. */
  showDraft(): void {
    this.#composer.show();
  }

  close(): void {
    this.#panel!.close(false);
  }

  render(scene: Scene): void {
    const isNew = scene.texts != this.#scene?.texts;
    const { conversation } = scene;
    this.#scene = { ...scene, seen: conversation && seenIn(conversation) };
    if (isNew) this.#label();
    this.#end(!!conversation?.isOver);
    this.#composer.show();
    this.#tell();
    this.#tellTyping();
    this.#tellPresence();
    this.#panel!.header.render(scene);
    this.#list.render(this.#scene);
  }

  #label(): void {
    const { texts } = this.#scene ?? {};
    if (!texts) return;
    this.#panel!.header.label(texts);
    this.#list.log.setAttribute("aria-label", texts.messages);
    this.#composer.label(texts.placeholder, texts.send);
    setText(this.#restart, texts.restart);
    this.#list.redraw();
  }

  #end(isOver: boolean): void {
    const { element } = this.#composer;
    if (isOver && element.contains((element.getRootNode() as ShadowRoot).activeElement)) this.#list.log.focus();
    element.hidden = isOver;
    this.#restart.hidden = !isOver;
  }

  #tell(): void {
    if (!this.#scene) return;
    const { conversation, texts } = this.#scene;
    const text = noticeOf(conversation, texts, this.#composer.excess);
    this.#notice.hidden = !text;
    this.#notice.dataset.kind = [texts.connecting, texts.ended].includes(text) ? "info" : "warning";
    setText(this.#notice, text);
  }

  /** Coming and going is not announced, but that nobody is left to answer. */
  #tellPresence(): void {
    const wasHere = this.#presence.isHere;
    const text = this.#presence.text(this.#scene!);
    const { isHere, lostAt } = this.#presence;
    if (text && lostAt) this.#timer ??= setTimeout(this.#again, KEPT_MS);
    if (wasHere && !isHere && text) this.#on.say(text);
    this.#people.hidden = !text || !this.#dots.hidden;
    this.#people.dataset.kind = isHere ? "here" : "away";
    setText(this.#people, text);
  }

  #tellTyping(): void {
    const { conversation, texts } = this.#scene!;
    const { first } = conversation?.typists ?? {};
    const spoke = first && conversation!.timeline.order.findLast((row) => row.sender?.id == first);
    this.#dots.hidden = !first;
    setText(this.#dots.lastElementChild!, texts.typing.replace("{name}", () => (spoke ? isolated(nameOf(spoke, texts)) : texts.someone)));
  }
}
