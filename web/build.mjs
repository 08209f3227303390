// Builds what is served (../eclipse_ws/static, kept in git so that nobody who runs the server needs Node). `make web`
// calls it; `node build.mjs --served DIR` writes it elsewhere. The npm package is built by build-package.mjs.
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
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
const { outputFiles } = await build({ ...common, entryPoints: { "eclipse-chat": "src/client/index.ts", widget: "src/widget/index.ts" }, outdir: values.served, minify: true, write: false });
for (const { path, text } of outputFiles) {
  // A second minifier, because it saves three bytes in a hundred that every visitor would load.
  const { code } = await minify(text, { module: true, ecma: 2022, compress: { passes: 3 } });
  await writeFile(path, banner + code + "\n");
}

const [types] = generateDtsBundle([{ filePath: join(here, "src/client/index.ts"), output: { noBanner: true } }], { preferredConfigPath: join(here, "tsconfig.json") });
await writeFile(join(values.served, "eclipse-chat.d.ts"), `// Built from web/src by \`make web\`: change it there.\n\n${types}`);

for (const name of ["eclipse-chat.js", "widget.js"]) {
  const bytes = await readFile(join(values.served, name));
  console.log(`${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
