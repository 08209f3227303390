type Attributes = Record<string, string | number | boolean | null | undefined>;

/**
 * Make an element. Strings become text nodes: markup is never parsed. `false`, `null` and `undefined` leave an attribute out, `true` sets
 * an empty one. The first of its parts is its class, too, if it has no other.
 */
export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value != null && value !== false) element.setAttribute(key, value === true ? "" : String(value));
  if (!element.className && attributes.part) element.className = String(attributes.part).split(" ")[0]!;
  element.append(...children);
  return element;
}

/** A line drawing of 24 by 24 units, from an SVG path. */
export function icon(path: string): SVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(namespace, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Set an element's text only if it differs, so that nothing is announced or selected anew. */
export function setText(element: Element, text: string): void {
  if (element.textContent != text) element.textContent = text;
}

/** Give an element the attributes and children of a new one, keeping the children that are equal: the focus or a selection may be in them. */
export function update(element: Element, made: Element): void {
  for (const { name, value } of made.attributes) element.setAttribute(name, value);
  const old = [...element.childNodes];
  const children = [...made.childNodes];
  children.forEach((child, i) => {
    const before = old[i];
    if (!before) element.append(child);
    else if (!before.isEqualNode(child)) before.replaceWith(child);
  });
  for (const child of old.slice(children.length)) child.remove();
}

/** Where an element begins, in pixels from the top of the window. */
export const top = (element: Element): number => element.getBoundingClientRect().top;

/** What has the focus, in whichever shadow; the body if nothing has. */
export function focused(): HTMLElement {
  let active = document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return (active ?? document.body) as HTMLElement;
}
