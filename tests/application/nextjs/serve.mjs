// Serves the compiled routes of a folder as Next.js does, on a free port of loopback, which it prints.
import { readdirSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join, sep } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const load = (name) => import(pathToFileURL(join(folder, name)));
const { answering } = await load("next-headers.js");
const { reported } = await load("lib/prisma.js");
const routes = [];
for (const file of readdirSync(join(folder, "app"), { recursive: true })) {
  if (!file.endsWith("route.js")) continue;
  const path = dirname(file).split(sep).join("/");
  const pattern = new RegExp(`^/${path.replace(/\[(\w+)\]/g, "(?<$1>[^/]+)")}$`);
  routes.push({ pattern, handlers: await load(join("app", file)) });
}

async function answer(incoming) {
  const parts = [];
  for await (const part of incoming) parts.push(part);
  const url = new URL(incoming.url, "http://application.test");
  if (url.pathname == "/reported") return Response.json(reported); // for the tests
  const found = routes.find(({ pattern }) => pattern.test(url.pathname));
  const handler = found?.handlers[incoming.method];
  if (!handler) return new Response("<html>not here</html>", { status: found ? 405 : 404 });
  const body = parts.length ? Buffer.concat(parts) : undefined;
  const request = new Request(url, { method: incoming.method, headers: incoming.headers, body });
  const named = Object.entries(found.pattern.exec(url.pathname).groups ?? {});
  const params = Promise.resolve(Object.fromEntries(named.map(([name, value]) => [name, decodeURIComponent(value)])));
  return answering.run(request, () => handler(request, { params }));
}

createServer(async (incoming, outgoing) => {
  const response = await answer(incoming);
  const body = Buffer.from(await response.arrayBuffer());
  outgoing.writeHead(response.status, { ...Object.fromEntries(response.headers), "Content-Length": body.length });
  outgoing.end(body);
}).listen(0, "127.0.0.1", function () {
  console.log(this.address().port);
});
