// Nodes and their places in a graph with subgraphs. No page: the root graph is handed in.

/** The node that the server calls "5" or, in a subgraph, "3:5". */
export function nodeOf(root, id) {
  let graph = root;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById?.(part) ?? graph?.getNodeById?.(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** What the server calls a node: all ids that lead to it. A subgraph that is used twice has a node twice. */
export function idsOf(graph, node, before = "") {
  const ids = [];
  for (const other of graph?.nodes ?? []) {
    if (other === node) ids.push(before + other.id);
    if (other.subgraph) ids.push(...idsOf(other.subgraph, node, `${before}${other.id}:`));
  }
  return ids;
}

/** The latest that is known of a node: by `Trees` or by `Results`. */
export function latest(root, known, node) {
  const found = idsOf(root, node).map((id) => known.get(root?.id, id)).filter(Boolean);
  return found.sort((a, b) => a.order - b.order).at(-1) ?? null;
}

/** What the page itself calls a node where it keeps outputs. */
export function locatorOf(root, node) {
  return node.graph === root ? String(node.id) : `${node.graph?.id}:${node.id}`;
}

export function allNodes(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}
