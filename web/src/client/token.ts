// The token, and the address of the server that takes it.
import type { Grant, Options } from "./types.ts";

const askUrl = async ({ tokenUrl, chatId, fetch: get = fetch }: Options, signal: AbortSignal): Promise<Grant> => {
  const url = new URL(tokenUrl!, globalThis.location?.href);
  if (chatId != null) url.searchParams.set("chatId", chatId);
  const answer = await get(url, { signal, cache: "no-store" }).catch(({ message }) => {
    // A page is not told which of both it is.
    throw Error(`The token URL can't be reached, or redirects to another origin: ${message}`);
  });
  const { status, headers } = answer;
  if (!answer.ok) throw Object.assign(Error(`The token URL answered ${status}`), { status, wait: headers.get("retry-after") });
  return answer.json().catch(() => {
    throw Error(`The token URL answered ${headers?.get("content-type")}${answer.redirected ? " after a redirect" : ""}. Expected: JSON`);
  });
};

/** Answers or fails within 10 s, and fails once `over` is aborted. The error has the answer's `status` and its Retry-After as `wait`, in seconds, if there are any. */
export const fetchGrant = async (options: Options, over: AbortSignal): Promise<Grant> => {
  const limit = AbortSignal.timeout(10_000);
  const signal = AbortSignal.any?.([over, limit]) ?? limit; // older browsers let the request run
  const late = new Promise<never>((_, fail) => (signal.onabort = () => fail(Error("No token in 10 s"))));
  // A function that throws at once must not leave `late` without anybody who hears it.
  const ask = async () => (options.tokenUrl ? askUrl(options, signal) : options.token!({ signal, chatId: options.chatId! }));
  const grant = await Promise.race([ask(), late]);
  if (!grant?.token?.trim?.()) throw Error("No token in the answer");
  return grant;
};

/** The socket's address; throws if the text is none. */
export const socketUrl = (text: unknown) => {
  try {
    const url = new URL(text as string);
    const isInsecurePage = globalThis.location?.protocol != "https:";
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    if (url.protocol == "wss:" || (url.protocol == "ws:" && (isInsecurePage || /^(.+\.)?localhost$|^127(\.\d+){3}$|^\[::1]$/.test(url.hostname)))) return url;
  } catch {}
  throw Error(`The server's address is ${text}. Expected: wss://...`);
};
