// Other words under which nodes are found ("prompt list", "clustering"), where server or page do not bring them along.

const WORDS = fetch(new URL("./search_words.json", import.meta.url))
  .then((response) => (response.ok ? response.json() : {}))
  .catch(() => ({}));

/** What the extension adds: definitions get their words. */
export const withWords = {
  async addCustomNodeDefs(defs) {
    for (const [name, list] of Object.entries(await WORDS)) {
      if (defs[name] && !defs[name].search_aliases?.length) defs[name].search_aliases = list; // ComfyUI before 0.11
    }
  },
};

/** Pages that search names alone look at the words too. For when the page is set up: its store of nodes is there then. */
export async function searchByWords(app) {
  const words = await WORDS;
  const service = app.extensionManager?._p?._s.get("nodeDef")?.nodeSearchService; // Pinia's, of the page's store
  if (service?.searchNode && !keysOf(service).includes("search_aliases")) extend(Object.getPrototypeOf(service), words);
}

/** What the page's search compares with; of pages that are built in another way this says nothing, and they are left. */
export function keysOf(service) {
  return service.nodeFuseSearch?.keys?.map((key) => key.name ?? key) ?? ["search_aliases"];
}

/** Give a search of nodes the words too: what is named as asked comes first, then what has such a word. */
export function extend(prototype, words) {
  if (prototype.hierdiffWords) return;
  const { searchNode } = prototype;
  prototype.hierdiffWords = words;
  prototype.searchNode = function (query, filters, options, ...rest) {
    const found = searchNode.call(this, query, filters, options, ...rest);
    const wanted = String(query ?? "").trim().toLowerCase();
    if (wanted.length < 3) return found;
    const meant = (node) => words[node.name]?.some((word) => word.includes(wanted));
    const ours = searchNode.call(this, "", filters, undefined, ...rest).filter((node) => meant(node) && !found.includes(node));
    const named = found.filter((node) => node.display_name?.toLowerCase().includes(wanted));
    const others = found.filter((node) => !named.includes(node));
    return [...named, ...ours, ...others].slice(0, options?.limit ?? Infinity);
  };
}
