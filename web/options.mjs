// The options of esbuild that everything is built with.
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { transform } from "esbuild";

const styles = {
  name: "styles",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true });
      return { contents: code.trim(), loader: "text" };
    }),
};

export const common = {
  absWorkingDir: dirname(fileURLToPath(import.meta.url)),
  bundle: true,
  format: "esm",
  target: ["es2022", "safari16.4"],
  charset: "utf8",
  plugins: [styles],
  legalComments: "none",
  logLevel: "warning",
};
