// Which events have come, so that none is told twice.

/** Their names, such as `message 42`, in the order of coming. */
export type Seen = Set<string>;

/** Note an event; answers whether it is news. */
export const isNew = (seen: Seen, name: string) => {
  if (seen.has(name) || seen.has(name.replace("message ", "message_deleted "))) return false;
  seen.add(name);
  if (seen.size > 1000) seen.delete(seen.values().next().value!);
  return true;
};

/** The id of the last message that is known, or of the last one before the given. */
export const last = (seen: Seen, id?: string) => {
  const known = [...seen].filter((name) => /^message /.test(name));
  return (id ? known[known.indexOf("message " + id) - 1] : known.at(-1))?.slice(8) ?? "";
};

/** Whether the message is the other one, or is known to come before it. */
export const isUpTo = (seen: Seen, id?: string, other?: string) => {
  const known = [...seen];
  const at = known.indexOf("message " + id);
  return id == other || (at >= 0 && at < known.indexOf("message " + other));
};

export const forget = (seen: Seen, id: unknown) => seen.delete("message " + id);
