// What `next/headers` gives the documented code: the headers and cookies of the request that is being answered.
import { AsyncLocalStorage } from "node:async_hooks";

export const answering = new AsyncLocalStorage<Request>();

export async function headers() {
  const request = answering.getStore();
  if (!request) throw new Error("no request is being answered");
  return request.headers;
}

export async function cookies() {
  const pairs = ((await headers()).get("cookie") ?? "").split("; ").map((pair) => pair.split("=", 2));
  const values = new Map(pairs as [string, string][]);
  return {
    get(name: string) {
      const value = values.get(name);
      return value === undefined ? undefined : { name, value };
    },
  };
}
