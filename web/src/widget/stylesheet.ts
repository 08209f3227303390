/// <reference path="./styles.d.ts" />
/** Makes a style sheet that all elements share: the first call constructs it, since no content security policy objects to those. */
export function sheetOf(css: string): () => CSSStyleSheet {
  let sheet: CSSStyleSheet | undefined;
  return () => {
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(css);
    }
    return sheet;
  };
}
