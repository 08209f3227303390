import { early } from "./early.ts";
import type { Texts } from "./en.ts";

type Load = () => Promise<{ default: Texts }>;

/**
 * The launcher's `open` and `unread`, which are needed before a request would be worth it, and where everything else is. Bundlers find the files
 * by these literal names; in what is served each is a file beside widget.js (see build.mjs).
 */
const languages: Record<string, [open: string, unread: string, load: Load] | undefined> = {
  ar: ["فتح المحادثة", "غير مقروءة: {n}", () => import("./ar.ts")],
  de: ["Chat öffnen", "{n} ungelesen", () => import("./de.ts")],
  es: ["Abrir el chat", "{n} sin leer", () => import("./es.ts")],
  fr: ["Ouvrir la discussion", "Non lus : {n}", () => import("./fr.ts")],
  it: ["Apri la chat", "Non letti: {n}", () => import("./it.ts")],
  ja: ["チャットを開く", "未読{n}件", () => import("./ja.ts")],
  nl: ["Chat openen", "{n} ongelezen", () => import("./nl.ts")],
  pl: ["Otwórz czat", "Nieprzeczytane: {n}", () => import("./pl.ts")],
  pt: ["Abrir o chat", "Não lidas: {n}", () => import("./pt.ts")],
};

/** The English texts, as far as they are there: the view brings the panel's. */
const english = { ...early } as Texts;
const loaded: Record<string, Texts> = {};

export function addEnglish(texts: Partial<Texts>): void {
  Object.assign(english, texts);
}

/** The nearest `lang` around an element, as a tag that `Intl` takes; undefined if there is none, or it makes no sense. */
export function languageOf(element: Element): string | undefined {
  let near: Element | undefined = element;
  while (near && !near.closest("[lang]")) near = (near.getRootNode() as ShadowRoot).host;
  const { lang } = near?.closest<HTMLElement>("[lang]") ?? document.documentElement;
  try {
    return Intl.getCanonicalLocales(lang.replace("_", "-"))[0];
  } catch {
    return undefined;
  }
}

const primary = (language = "") => language.split("-")[0]!;

/** The texts in a language, as far as they have been loaded; the rest is English. Before the view is there, they are those that it isn't needed for. */
export function textsIn(language: string | undefined): Texts {
  const [open, unread] = languages[primary(language)] ?? [english.open, english.unread];
  return { ...english, open, unread, ...loaded[primary(language)] };
}

/** Load a language's texts. If that fails, or there are none, it stays as it is. */
export async function loadTexts(language: string | undefined): Promise<void> {
  try {
    loaded[primary(language)] ??= (await languages[primary(language)]![2]()).default;
  } catch {} // English is better than nothing
}
