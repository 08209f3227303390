/** The English texts that are needed before the panel is there: on the launcher, and for what screen readers say. */
export const early = {
  open: "Open the chat",
  unread: "{n} unread",
  joined: "{name} joined the chat",
  failed: "Not sent.",
  tooLong: "Too long to send.",
  unknown: "This may not have been sent.",
  agent: "Support",
  assistant: "Support",
  user: "Visitor",
};
