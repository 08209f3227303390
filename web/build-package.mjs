// Builds what the npm package publishes into dist/: its three entries and their types. The client's types are those that
// are served: build.mjs goes first.
import { execFileSync } from "node:child_process";
import { copyFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { common } from "./options.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const copied = { "../eclipse_ws/static/eclipse-chat.d.ts": "eclipse-chat.d.ts", "types/widget.d.ts": "widget.d.ts", "../LICENSE": "LICENSE" };

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
execFileSync(process.execPath, [tsc, "--project", join(here, "tsconfig.react.json")], { stdio: "inherit" });
for (const [source, name] of Object.entries(copied)) await copyFile(join(here, source), join(here, "dist", name));
