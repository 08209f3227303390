// Bundles the pages into the folder that is named: `node build.mjs DIR`.
import { join } from "node:path";
import { build } from "esbuild";

const [, , folder] = process.argv;
const page = (entry, name, options) =>
  build({
    entryPoints: { [name]: `pages/${entry}` },
    outdir: join(folder, name),
    bundle: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
    jsx: "automatic",
    logLevel: "warning",
    ...options,
  });
const react18 = { alias: { react: "react-18", "react-dom": "react-dom-18" } };

await Promise.all([
  page("react18.tsx", "react18", react18),
  page("react19.tsx", "react19"),
  page("preact.jsx", "preact", { jsxImportSource: "preact" }),
  page("vue.js", "vue"),
  page("hooks.tsx", "hooks18", react18),
  page("hooks.tsx", "hooks19"),
  page("shared.tsx", "shared18", react18),
  page("shared.tsx", "shared19"),
  page("hydrate.tsx", "hydrate18", react18),
  page("hydrate.tsx", "hydrate19"),
  page("refresh.tsx", "refresh"),
]);
