/// <reference path="./styles.d.ts" />

/** A constructed style sheet: no content security policy objects to those. */
export function sheetOf(css: string): CSSStyleSheet {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  return sheet;
}
