// Builds what is served (../eclipse_ws/static, kept in git so that nobody who runs the server needs Node) and what is
// published (dist/). `make web` calls it; `node build.mjs --served DIR` writes what is served elsewhere.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build, transform } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: { served: { type: "string", default: join(here, "../eclipse_ws/static") } } });

const styles = {
  name: "styles",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true });
      return { contents: code.trim(), loader: "text" };
    }),
};

const common = {
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  target: ["es2022", "safari16.4"],
  charset: "utf8",
  plugins: [styles],
  legalComments: "none",
  logLevel: "warning",
};
const banner = { js: "// Built from web/src by `make web`: change it there." };

await build({ ...common, entryPoints: { "eclipse-chat": "src/client/index.js", widget: "src/widget/index.ts" }, outdir: values.served, minify: true, banner });

for (const name of ["eclipse-chat.js", "widget.js"]) {
  const bytes = await readFile(join(values.served, name));
  console.log(`${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
