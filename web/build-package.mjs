// Builds what the npm package publishes into dist/: its three entries and their types. The client's types are those that
// are served: build.mjs goes first.
import { execFileSync } from "node:child_process";
import { copyFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { generateDtsBundle } from "dts-bundle-generator";
import { build } from "esbuild";
import { common } from "./options.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const copied = { "../eclipse_ws/static/eclipse-chat.d.ts": "eclipse-chat.d.ts", "../LICENSE": "LICENSE" };

await rm(join(here, "dist"), { recursive: true, force: true });
await build({
  ...common,
  entryPoints: { "eclipse-chat": "./src/client", widget: "./src/widget", react: "./src/react" },
  alias: { "eclipse-chat": "./src/client" },
  external: ["react"],
  // One copy of the client, whichever entries a page imports.
  splitting: true,
  chunkNames: "[name]-[hash]",
  define: { SERVED_VIEW: '""', BUILD: '""' },
  minifySyntax: true, // what is left out by that name is left out here
  outdir: "dist",
});
for (const [source, name] of Object.entries(copied)) await copyFile(join(here, source), join(here, "dist", name));
// tsconfig.widget.json makes the served client a library called "static", so that its types are imported and not repeated.
const widget = {
  filePath: join(here, "src/widget/index.ts"),
  libraries: { importedLibraries: ["static"] },
  output: { noBanner: true, inlineDeclareGlobals: true, exportReferencedTypes: false },
};
const [types] = generateDtsBundle([widget], { preferredConfigPath: join(here, "tsconfig.widget.json") });
await writeFile(join(here, "dist/widget.d.ts"), types);
execFileSync(process.execPath, [tsc, "--project", join(here, "tsconfig.react.json")], { stdio: "inherit" });
// The hooks share a constant with the client, but no type.
await rm(join(here, "dist/client"), { recursive: true });
