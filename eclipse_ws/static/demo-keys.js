// Keys on the agents' desk, and the dialog that lists them. Single keys only outside of fields, and they can be switched off.

const $ = (id) => document.getElementById(id);
const KEY = "desk:keys";
const NAMES = {
  j: "Next chat",
  k: "Previous chat",
  a: "Assign the chat to me, or release it",
  e: "Close the chat",
  s: "Search",
  r: "Write an answer",
  "/": "Ready answers, also in the empty field",
  "?": "These keys",
};
const ALWAYS = { ArrowDown: "j", ArrowUp: "k" }; // with Alt, in fields as well

const isOff = () => {
  try {
    return localStorage.getItem(KEY) == "off";
  } catch {}
};

/** Calls the functions in `does`, which are named like the keys. */
export function listen(does) {
  const dialog = $("keys");
  const show = () => dialog.open || dialog.showModal();
  const rows = [...Object.entries(NAMES).map(([key, name]) => [[key], name]), [["Alt", "↓"], "Next chat, also while writing"], [["Alt", "↑"], "Previous chat, also while writing"]];
  for (const [keys, name] of rows) {
    const [term, text] = ["dt", "dd"].map((tag) => document.createElement(tag));
    term.append(...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
    text.textContent = name;
    $("key-list").append(term, text);
  }
  $("help").addEventListener("click", show);
  $("keys-done").addEventListener("click", () => dialog.close());
  const single = $("single-keys");
  single.checked = !isOff();
  single.addEventListener("change", () => {
    try {
      localStorage.setItem(KEY, single.checked ? "on" : "off");
    } catch {}
  });

  const press = (event) => {
    const { key, altKey, ctrlKey, metaKey, isComposing } = event;
    if (isComposing || ctrlKey || metaKey || dialog.open) return;
    const target = event.composedPath()[0];
    const isWriting = target instanceof Element && !!target.closest("input, textarea, select, [contenteditable]");
    const name = altKey ? ALWAYS[key] : isWriting || !single.checked ? undefined : key;
    if (!Object.hasOwn(NAMES, name)) return;
    event.preventDefault();
    if (name == "?") show();
    else does[name]();
  };
  // Before the chat's element, which keeps the keys of its field for itself.
  addEventListener("keydown", press, { capture: true });
}
