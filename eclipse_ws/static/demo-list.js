// The lines of the list on the agents' desk. An element stays the same for as long as its chat is there: what somebody
// presses or has focused is never replaced under their hand.

const make = (name, className) => Object.assign(document.createElement(name), { className });
const set = (element, properties) => {
  for (const [name, value] of Object.entries(properties)) if (element[name] !== value) element[name] = value;
};

export const nameOf = (id) => "Visitor " + id.replace(/^visitor-/, "").slice(0, 24);
const hueOf = (id) => [...id].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 360, 7);

/** Makes an element the picture of a chat. */
export function face(element, id) {
  element.textContent = nameOf(id).slice(8, 10).toUpperCase();
  element.style.setProperty("--hue", hueOf(id));
}

const ago = (iso) => {
  const minutes = Math.floor((Date.now() - Date.parse(iso)) / 60_000);
  if (!(minutes >= 1)) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h`;
  return new Date(iso).toLocaleDateString(undefined, { day: "numeric", month: "short" });
};

/** Whether a customer is still there, or since when they are not; nothing if that isn't known. */
function whereabouts({ status, customerHere, customerLeftAt }) {
  if (status == "closed" || customerHere == null) return "";
  if (customerHere) return "Here now";
  const minutes = (Date.now() - Date.parse(customerLeftAt)) / 60_000;
  return minutes < 1 ? "Left just now" : `Left ${ago(customerLeftAt)}${minutes < 1440 ? " ago" : ""}`;
}

const LONG = 300; // seconds after which a customer waits for long

/** How long a customer has been waiting: 0:59, 59:59, 3 h. */
export function waited(iso) {
  const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(iso)) / 1_000));
  const text = seconds < 3_600 ? `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : seconds < 172_800 ? `${Math.floor(seconds / 3_600)} h` : `${Math.floor(seconds / 86_400)} days`;
  return { text, isLong: seconds >= LONG };
}

class Row {
  item = document.createElement("li");
  #parts = { name: make("span", "name"), time: make("time", ""), last: make("span", "last"), count: make("span", "count"), here: make("span", "here"), who: make("span", "who") };
  #button = make("button", "chat");
  #chat;

  constructor(id) {
    const picture = make("span", "face");
    picture.setAttribute("aria-hidden", "true");
    face(picture, id);
    this.#parts.name.textContent = nameOf(id);
    this.#parts.last.dir = "auto";
    this.#parts.count.role = "img";
    this.#button.type = "button";
    this.#button.dataset.id = id;
    this.#button.append(picture, ...Object.values(this.#parts));
    this.item.append(this.#button);
  }

  show(chat, { unread, isCurrent, assignee }) {
    const { last, count, who } = this.#parts;
    this.#chat = chat;
    set(this.#button, { className: unread ? "chat unread" : "chat", ariaCurrent: String(isCurrent) });
    set(last, { textContent: chat.lastMessage?.content ?? "" });
    set(count, { hidden: !unread, textContent: unread > 99 ? "99+" : String(unread), ariaLabel: `${unread} unread` });
    set(who, { textContent: chat.status == "closed" ? "Closed" : assignee, className: chat.assignee || chat.status == "closed" ? "who" : "who nobody" });
    this.tick();
  }

  /** Shows how late it is now. */
  tick() {
    const { updatedAt, waitingSince, customerHere } = this.#chat;
    const { text, isLong } = waitingSince ? waited(waitingSince) : { text: ago(updatedAt) };
    set(this.#parts.time, {
      dateTime: waitingSince ?? updatedAt,
      textContent: text,
      className: !waitingSince ? "" : isLong ? "wait long" : "wait",
      title: waitingSince ? "The customer has been waiting for this long" : "",
    });
    const where = whereabouts(this.#chat);
    set(this.#parts.here, { hidden: !where, textContent: where, className: customerHere ? "here" : "here left" });
  }

  focus() {
    this.#button.focus();
  }
}

export class List {
  #element;
  #rows = new Map(); // by the chat's id
  #late; // what is to be drawn once nothing is pressed any more
  #pressed = false;

  /** Draws into `element`, a `ul`; calls `choose` with the id of the chat that somebody opens. */
  constructor(element, choose) {
    this.#element = element;
    element.addEventListener("click", ({ target }) => {
      const id = target.closest("[data-id]")?.dataset.id;
      if (id) choose(id);
    });
    element.addEventListener("pointerdown", () => (this.#pressed = true));
    const release = () => {
      this.#pressed = false;
      setTimeout(() => this.#late && this.draw(...this.#late)); // the click comes first
    };
    for (const type of ["pointerup", "pointercancel", "blur"]) addEventListener(type, release);
  }

  /** Shows the chats in this order; `look` tells for each how much is unread, whether it is open here, and whose it is. */
  draw(chats, look) {
    this.#late = this.#pressed ? [chats, look] : undefined;
    if (this.#pressed) return;
    const items = chats.map((chat) => {
      if (!this.#rows.has(chat.id)) this.#rows.set(chat.id, new Row(chat.id));
      const row = this.#rows.get(chat.id);
      row.show(chat, look(chat));
      return row.item;
    });
    const kept = new Set(chats.map(({ id }) => id));
    for (const [id, { item }] of this.#rows) if (!kept.has(id)) item.remove(), this.#rows.delete(id);
    this.#arrange(items);
  }

  /** Lets the times go on. */
  tick() {
    for (const row of this.#rows.values()) row.tick();
  }

  /** Gives a chat the focus, if it is there. */
  focus(id) {
    this.#rows.get(id)?.focus();
  }

  // An element that is moved loses its focus, so the others are moved around the one that has it.
  #arrange(items) {
    const still = items.findIndex((item) => item.contains(document.activeElement));
    let spot = this.#element.firstElementChild;
    items.forEach((item, n) => {
      if (n == still) spot = item.nextElementSibling;
      else if (item == spot) spot = spot.nextElementSibling;
      else this.#element.insertBefore(item, spot);
    });
  }
}
