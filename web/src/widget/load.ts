/** Where build.mjs puts the view beside this script; empty in the package, where it is up to the page's bundler. */
declare const SERVED_VIEW: string;
/** What build.mjs names the build that a served file belongs to; empty in the package, where the bundler keeps the files together. */
declare const BUILD: string;

type Module = typeof import("./view.ts");

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
