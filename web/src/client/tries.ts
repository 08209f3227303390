// What an attempt to send a message that has failed says about the message.

/** A message has failed when its attempts have cost this much. */
export const MOST_TRIES = 6;

/** What it costs a message that the socket was closed, by its code, while it was under way. */
export const closeCost = (code: number) =>
  code == 1006 ? 0.5 // a lost network; or a proxy, or a server that dies of it
  : code < 1002 || code == 1012 || code > 4000 ? 0 // not about the message
  : 2;

/** The same for an error's code. Answers about the whole application, or about this session, say little about the message. */
export const errorCost = (code: string) => (/unavailable|busy|timeout|limited|ended/.test(code) ? 0.125 : 1);

/** Whether an error without a name is about a message. */
export const isOfMessage = (error: string, retryable: boolean) =>
  retryable ? !/agent|typing/.test(error) : /send m|content|process message|clientMessageId/i.test(error);
