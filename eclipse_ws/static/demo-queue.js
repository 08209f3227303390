// The queue on the agents' desk: which chats the list shows, in which order, and the controls above it.
import { MOST } from "/static/demo-chats.js";
import { List } from "/static/demo-list.js";

const PAUSE = 250; // milliseconds after the last key, until the text is searched for
const EMPTY = {
  open: "No open chats. Open the <customer’s page> and write something: it appears here.",
  mine: "You have no chats. Open one, and assign it to yourself.",
  unassigned: "Every open chat has somebody who answers.",
  closed: "No chats have been closed yet.",
};

const $ = (id) => document.getElementById(id);
const put = (element, text) => element.textContent == text || (element.textContent = text);

/** Who waits for the longest comes first, then the chats in which nobody waits, the latest first. */
const order = (a, b) =>
  (a.waitingSince ? 0 : 1) - (b.waitingSince ? 0 : 1) || (a.waitingSince ? Date.parse(a.waitingSince) - Date.parse(b.waitingSince) : 0) || b.position - a.position;

export class Queue {
  filter = "open";
  #chats;
  #desk;
  #list;
  #timer;
  #failed = "";
  #isLoading = false;
  #shown = [];

  /** `desk`: who the agent is (`agent`), what is open (`chosen`), `choose(id)`, `nameOf(agent)` and `show()`. */
  constructor(chats, desk) {
    this.#chats = chats;
    this.#desk = desk;
    this.#list = new List($("chats"), desk.choose);
    for (const button of $("filters").children) button.addEventListener("click", () => this.choose(button.dataset.filter));
    $("more").addEventListener("click", () => this.#more(true));
    const search = $("search");
    search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(search.value.trim()), search.value.trim() && PAUSE);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key == "Escape" && search.value) {
        search.value = "";
        this.#search("");
        event.stopPropagation();
      }
      if (event.key == "ArrowDown") this.next(1);
    });
    setInterval(() => document.hidden || this.#list.tick(), 1_000);
    document.addEventListener("visibilitychange", () => document.hidden || this.#list.tick());
  }

  /** Shows other chats: `open`, `mine`, `unassigned` or `closed`. */
  choose(filter) {
    this.filter = filter;
    this.#failed = "";
    this.#desk.show();
    $("chats").parentElement.scrollTop = 0;
  }

  /** The chats of a filter. */
  of(filter) {
    const { agent } = this.#desk;
    const matches = {
      open: ({ status }) => status != "closed",
      mine: ({ status, assignee }) => status != "closed" && assignee == agent,
      unassigned: ({ status, assignee }) => status != "closed" && !assignee,
      closed: ({ status }) => status == "closed",
    };
    return this.#chats.all.filter(matches[filter]);
  }

  /** Opens the next chat of the list (1), or the one before (-1). */
  next(step) {
    const at = this.#shown.findIndex(({ id }) => id == this.#desk.chosen);
    const chat = this.#shown[at < 0 ? (step > 0 ? 0 : this.#shown.length - 1) : at + step];
    if (!chat) return;
    this.#desk.choose(chat.id);
    this.#list.focus(chat.id);
  }

  focus(id) {
    this.#list.focus(id);
  }

  /** Shows everything that is known now. */
  show() {
    const { agent, chosen } = this.#desk;
    const chats = this.#chats;
    const { found } = chats;
    for (const button of $("filters").children) {
      const { filter } = button.dataset;
      button.setAttribute("aria-pressed", String(filter == this.filter));
      const count = filter == "closed" ? 0 : this.of(filter).length;
      put(button.lastElementChild, count && chats.reached !== undefined ? String(count) : "");
    }
    $("filters").hidden = !!found;
    const isClosed = !found && this.filter == "closed";
    if (isClosed && chats.next === undefined && chats.reached && !this.#failed) this.#more();

    this.#shown = found ? chats.all.filter(({ id }) => found.has(id)) : this.of(this.filter).sort(isClosed ? undefined : order);
    this.#list.draw(this.#shown, (chat) => ({
      unread: chat.status == "closed" ? 0 : chats.unread(chat),
      isCurrent: chat.id == chosen,
      assignee: !chat.assignee ? "Unassigned" : chat.assignee == agent ? "You" : this.#desk.nameOf(chat.assignee),
    }));
    this.#note(isClosed);
  }

  #note(isClosed) {
    const { reached, next, found, query, all } = this.#chats;
    const isUnknown = found ? false : isClosed ? next === undefined : reached === undefined;
    const isEmpty = !this.#shown.length && (found || isClosed || reached);
    $("none").hidden = !isEmpty && !isUnknown && !this.#failed;
    if (this.#failed) put($("none"), this.#failed);
    else if (isUnknown) put($("none"), "Loading…");
    else if (found) put($("none"), `Nothing is found for “${query}”.`);
    else if (isEmpty) this.#explain();
    $("more").hidden = !isClosed || !next;
    $("most").hidden = !!found || all.length < MOST;
  }

  #explain() {
    const [before, link, after] = EMPTY[this.filter].split(/[<>]/);
    if ($("none").textContent == before + (link ?? "") + (after ?? "")) return;
    $("none").textContent = before;
    if (link) $("none").append(Object.assign(document.createElement("a"), { href: "/demo", target: "customer", textContent: link }), after);
  }

  async #search(query) {
    try {
      await this.#chats.search(query);
      this.#failed = "";
    } catch {
      this.#failed = "The search failed. Try again.";
    }
    this.#desk.show();
  }

  async #more(isPressed) {
    const button = $("more");
    if (this.#isLoading) return;
    this.#isLoading = true;
    button.ariaDisabled = "true";
    button.textContent = "Loading…";
    const shown = $("chats").childElementCount;
    this.#failed = "";
    try {
      await this.#chats.more();
      button.textContent = "Show more";
      if (isPressed) $("chats").children[shown]?.firstElementChild.focus({ preventScroll: true });
    } catch {
      button.textContent = "That failed. Try again";
      if (!isPressed) this.#failed = "The closed chats could not be loaded. Choose “Closed” again.";
    }
    this.#isLoading = false;
    button.ariaDisabled = "false";
    this.#desk.show();
  }
}
