type Attributes = { part?: string; [name: string]: string | number | boolean | null | undefined };
type Elements = HTMLElementTagNameMap & Pick<SVGElementTagNameMap, "svg" | "path">;

/**
 * Make an element. Strings become text nodes: markup is never parsed. `false`, `null` and `undefined` leave an attribute out, `true` sets
 * an empty one. The first of its parts is its class, too, if it has no other.
 */
export function h<Name extends keyof Elements>(name: Name, attributes: Attributes = {}, ...children: (Node | string)[]): Elements[Name] {
  const element = document.createElementNS(`http://www.w3.org/${/svg|path/.test(name) ? "2000/svg" : "1999/xhtml"}`, name) as Elements[Name];
  const all: Attributes = { class: attributes.part?.split(" ")[0], ...attributes };
  for (const [key, value] of Object.entries(all))
    if (value != null && value !== false) element.setAttribute(key, value === true ? "" : String(value));
  element.append(...children);
  return element;
}

/** A line drawing of 24 by 24 units, from an SVG path. */
export const icon = (d: string): SVGElement => h("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, h("path", { d }));

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

/** Whether somebody writes there. */
export const isField = (element: HTMLElement): boolean => element.isContentEditable || /^(input|textarea|select)$/.test(element.localName);

/** Where an element begins, in pixels from the top of the window. */
export const top = (element: Element): number => element.getBoundingClientRect().top;

/** What has the focus, in whichever shadow, also in a closed one that an element is in; the body if nothing has. */
export function focused(from: Element): HTMLElement {
  let active = (from.getRootNode() as ShadowRoot).activeElement ?? document.activeElement;
  while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
  return (active ?? document.body) as HTMLElement;
}

/** Makes a function that draws once, with the next frame, however often it is called. Frames don't come to hidden pages. */
export function oncePerFrame(draw: () => void): () => void {
  let isDue = false;
  const drawNow = () => {
    isDue = false;
    draw();
  };
  return () => {
    if (isDue) return;
    isDue = true;
    if (document.hidden) setTimeout(drawNow);
    else requestAnimationFrame(drawNow);
  };
}
