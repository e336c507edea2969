// The extension's texts in the language of the page, from locales/<language>/main.json.

let known = {};

/** Ask the server for the texts; call once before any is shown. */
export async function loadTexts(api, locale) {
  const response = await api.fetchApi("/i18n").catch(() => null);
  const all = response?.ok ? await response.json() : {}; // else keys stand in for texts, and all the rest works
  known = merged(all.en?.hierdiff ?? {}, all[locale]?.hierdiff ?? {});
}

function merged(base, other) {
  const result = { ...base };
  for (const [key, value] of Object.entries(other)) {
    result[key] = typeof value === "object" ? merged(base[key] ?? {}, value) : value;
  }
  return result;
}

/** The text at a dotted path, its {placeholders} filled in. */
export function text(path, values = {}) {
  const found = path.split(".").reduce((part, key) => part?.[key], known);
  return String(found ?? path).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** 0.614 -> "61.4 %" */
export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** A number with four digits that count, without trailing zeros. */
export function short(number) {
  return String(Number(number.toPrecision(4)));
}
