import type { early } from "./early.ts";

/** The English texts of the panel. With those of early.ts they are all; `{name}` and `{n}` are filled in, and an empty one is not shown. */
export const english = {
  title: "Chat with us",
  subtitle: "",
  close: "Close the chat",
  messages: "Messages",
  placeholder: "Write a message…",
  send: "Send",
  empty: "Hello! How can we help?",
  connecting: "Connecting…",
  offline: "You are offline. What you write is kept and sent.",
  refused: "This chat can’t be opened here.",
  unavailable: "The chat isn’t available right now.",
  ended: "This chat has ended.",
  restart: "Start again",
  historyFailed: "Earlier messages could not be loaded.",
  sending: "Sending…",
  sent: "Sent",
  seen: "Seen",
  unsent: "Not sent.",
  tooLongBy: "{n} characters too many",
  retry: "Try again",
  edit: "Edit",
  discard: "Delete",
  full: "Too many messages are waiting.",
  edited: "edited",
  deleted: "This message was deleted.",
  typing: "{name} is typing…",
  here: "{name} is here",
  hereTogether: "{name} are here",
  away: "{name} is away. You can keep writing.",
  someone: "Someone",
  you: "You",
  today: "Today",
  yesterday: "Yesterday",
  latest: "New messages",
  newest: "Latest messages",
};

/** The element's texts, by name. */
export type Texts = typeof early & typeof english;
