import { h } from "./dom.ts";

// An address ends before a sentence's punctuation, and before what turns the direction: it reads as it leads.
const BREAK = "\\s<>\"'()\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069";
const LINK = RegExp(`(https?://(?:\\([^${BREAK}]*\\)|[^${BREAK}])*(?:\\([^${BREAK}]*\\)|[^${BREAK}.,;:!?\\]}…]))`, "i");

/** A text with its addresses as links that open elsewhere. An address with a user name is none: it leads elsewhere than it reads. */
export const linked = (text: string): (Node | string)[] =>
  text.split(LINK).map((part, i) => {
    if (!(i % 2)) return part;
    try {
      const { href, username, password } = new URL(part);
      if (!username && !password) return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" }, part);
    } catch {} // it only looks like an address
    return part;
  });
