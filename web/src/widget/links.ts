import { h } from "./dom.ts";

// An address ends before a sentence's punctuation, and before what turns the direction: it reads as it leads.
const BREAK = "\\s<>\"'`()\\p{Pi}\\p{Pf}\\p{Bidi_C}、。「」（），！？：；";
const PART = `\\([^${BREAK}]*\\)|[^${BREAK}`;
const REST = `(?:${PART}])*(?:${PART}.,;:!?\\]\\}…،؛؟।])`;
// Letters of the same word; scripts that put no spaces between words are not among them.
const WORD = "\\w¡-\u1fff";
// What is tried from each place of a long text is bounded: the time stays proportional to the length.
const MAIL = `(?<![${WORD}.+@/\\-])[\\w.+\\-]{1,64}@(?:[\\w\\-]{1,63}\\.){1,9}[a-z]{2,63}(?![.\\-]*[${WORD}@])`;
const LINK = RegExp(`(https?://${REST}|(?<![\\w.@/\\-])www\\.${REST})|(${MAIL})`, "iu");

/** Whether a host with Latin letters has others that look like them, or what looks like a slash. */
const isDeceptive = (host: string): boolean => /[a-z]/i.test(host) && /[^!-~¡-ɏぁ-鿿가-힣]/.test(host);

/** A text with its addresses as links. Web addresses open elsewhere; one with a user name is none: it leads elsewhere than it reads. */
export const linked = (text: string): (Node | string)[] =>
  text.split(LINK).map((part = "", i) => {
    if (part && i % 3 == 2 && !/[^!-~]/.test(part)) return h("a", { href: "mailto:" + part }, part);
    if (part && i % 3 == 1)
      try {
        const address = /^www/i.test(part) ? "https://" + part : part;
        const { href, username, password } = new URL(address);
        if (!username && !password && !isDeceptive(address.split(/[/\\?#]+/)[1]!))
          return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" }, part);
      } catch {} // it only looks like an address
    return part;
  });
