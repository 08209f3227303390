// Builds what is served (../eclipse_ws/static, kept in git so that nobody who runs the server needs Node). `make web`
// calls it; `node build.mjs --served DIR` writes it elsewhere. The npm package is built by build-package.mjs.
import { createHash } from "node:crypto";
import { readdir, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { generateDtsBundle } from "dts-bundle-generator";
import { build } from "esbuild";
import { minify } from "terser";
import { common } from "./options.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: { served: { type: "string", default: join(here, "../eclipse_ws/static") } } });
const banner = "// Built by `make web` from web/src\n";

// What a page may never need is in files of its own beside the widget, which loads them when it does: the view, and other languages' texts.
const names = (await readdir(join(here, "src/widget/texts"))).map((name) => basename(name, ".ts"));
const languages = names.filter((name) => /^[a-z]{2}$/.test(name) && name != "en");
const parts = {
  "./view.ts": "./widget.panel.js",
  ...Object.fromEntries(languages.map((code) => [`./${code}.ts`, `./widget.${code}.js`])),
};
const apart = {
  name: "apart",
  setup: ({ onResolve }) =>
    onResolve({ filter: /^\.\// }, ({ path, kind }) => (kind == "dynamic-import" && parts[path] ? { path: parts[path], external: true } : undefined)),
};

const entryPoints = {
  "eclipse-chat": "src/client/index.ts",
  widget: "src/widget/index.ts",
  "widget.panel": "src/widget/view.ts",
  ...Object.fromEntries(languages.map((code) => [`widget.${code}`, `src/widget/texts/${code}.ts`])),
};
const plugins = [...common.plugins, apart];
// Stands for the build in widget.js and in widget.panel.js, until both are known.
const unknown = "unknown build";
const define = { SERVED_VIEW: JSON.stringify(parts["./view.ts"]), BUILD: JSON.stringify(unknown) };
const { outputFiles } = await build({ ...common, plugins, define, entryPoints, outdir: values.served, minify: true, write: false });
const scripts = new Map();
for (const { path, text } of outputFiles) {
  // A second minifier, because it saves three bytes in a hundred that every visitor would load.
  const { code } = await minify(text, { module: true, ecma: 2022, compress: { passes: 3 } });
  scripts.set(path, code);
}
// A page that has been open since before an update loads the panel of after it: load.ts sees by this that they don't fit together.
const stamped = [...scripts.values()].filter((code) => code.includes(unknown));
const stamp = createHash("sha256").update(stamped.join()).digest("hex").slice(0, 8);
for (const [path, code] of scripts) {
  const bytes = Buffer.from(`${banner}${code.replaceAll(unknown, stamp)}\n`);
  await writeFile(path, bytes);
  console.log(`${basename(path)}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}

const [types] = generateDtsBundle([{ filePath: join(here, "src/client/index.ts"), output: { noBanner: true } }], {
  preferredConfigPath: join(here, "tsconfig.json"),
});
await writeFile(join(values.served, "eclipse-chat.d.ts"), `${banner}\n${types}`);
