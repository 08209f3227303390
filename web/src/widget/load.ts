import type { Failure } from "./types.ts";

/** Where build.mjs puts the view beside this script; empty in the package, where it is up to the page's bundler. */
declare const SERVED_VIEW: string;
/** What build.mjs names the build that a served file belongs to; empty in the package, where the bundler keeps the files together. */
declare const BUILD: string;

type Module = typeof import("./view.ts");

export interface LoaderHooks {
  busy(isBusy: boolean): void;
  /** Whether the view would be shown by now. */
  isWanted(): boolean;
  loaded(view: Module): void;
  /** Answers whether to try again. */
  failed(failure: Failure): boolean;
}

/** After so many milliseconds an inline chat whose view could not be loaded tries again. */
const AGAIN = 10_000;
/** The same if the page needs a reload; a server that is being updated may still answer with the view of before. */
const AGAIN_OUTDATED = 600_000;

let failures = 0;
let loading: Promise<Module> | undefined;

/**
 * Load the view, once for all elements. After a failure it is asked for under another address: browsers remember a module that failed.
 * Where the server was updated after this script was loaded, the error has `retryable: false`.
 */
export function loadView(): Promise<Module> {
  loading ??= load().catch((error) => {
    loading = undefined;
    failures++;
    throw error;
  });
  return loading;
}

async function load(): Promise<Module> {
  const view: Module = await (SERVED_VIEW && failures ? import([SERVED_VIEW, failures].join("?")) : import("./view.ts"));
  if (SERVED_VIEW && view.build != BUILD) throw Object.assign(Error("it is of another version than this page's widget.js. Reload the page"), { retryable: false });
  return view;
}

/** Loads the view for one element, once at a time. */
export class Loader {
  readonly #on: LoaderHooks;
  #timer: ReturnType<typeof setTimeout> | undefined;
  isLoading = false;

  constructor(on: LoaderHooks) {
    this.#on = on;
  }

  /** Don't try again. */
  end(): void {
    clearTimeout(this.#timer);
  }

  /** Load the view, and wait for what it needs to be shown. */
  async load(need?: Promise<void>): Promise<void> {
    if (this.isLoading) return;
    const on = this.#on;
    this.end();
    on.busy((this.isLoading = true));
    try {
      const [view] = await Promise.all([loadView(), need]);
      if (on.isWanted()) on.loaded(view);
    } catch (error) {
      if (!on.isWanted()) return;
      const { message, retryable = true } = error as Error & { retryable?: boolean };
      if (on.failed({ error: `The chat's panel could not be loaded: ${message}`, code: "load_failed", retryable }))
        this.#timer = setTimeout(() => on.isWanted() && this.load(), retryable ? AGAIN : AGAIN_OUTDATED);
    } finally {
      on.busy((this.isLoading = false));
    }
  }
}
