/** Where build.mjs puts the view beside this script; empty in the package, where it is up to the page's bundler. */
declare const SERVED_VIEW: string;

type Module = typeof import("./view.ts");

let failures = 0;
let loading: Promise<Module> | undefined;

/** Load the view, once for all elements. After a failure it is asked for under another address: browsers remember a module that failed. */
export function loadView(): Promise<Module> {
  loading ??= (SERVED_VIEW && failures ? import([SERVED_VIEW, failures].join("?")) : import("./view.ts")).catch((error) => {
    loading = undefined;
    failures++;
    throw error;
  });
  return loading;
}
