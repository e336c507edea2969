// "Open folder": shows what was saved in the file manager, where the page is on the server's own machine.

import { element } from "./panel.js";
import { text } from "./texts.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

/** Whether this page and its server are on one machine, as far as a page can know. */
export function isLocal(hostname) {
  return LOOPBACK.test(hostname);
}

/** A button at the end of a result's first line, for the folder that it names; without one there is no button. */
export function offerFolder(panel, api, folder, hostname = location.hostname) {
  const offered = folder && isLocal(hostname) ? folder : null;
  if (!offered) return panel.folder?.remove();
  panel.folder ??= folderButton(panel, api);
  panel.folder.dataset.folder = offered;
  if (!panel.folder.parentElement) panel.lines.parentElement.append(panel.folder);
}

function folderButton(panel, api) {
  const button = element("button", "hierdiff-open-folder");
  button.type = "button";
  button.textContent = text("folder.open");
  button.title = text("folder.open_tip");
  // not the graph's: it would drag the node
  button.addEventListener("pointerdown", (event) => event.stopPropagation());
  button.addEventListener("click", async () => {
    button.disabled = true;
    const said = await openFolder(api, button.dataset.folder).finally(() => (button.disabled = false));
    if (said) panel.lines.textContent = said;
    panel.measureNow();
  });
  return button;
}

/** Ask the server to open a folder; what to say if it is not open then, else "". */
export async function openFolder(api, folder) {
  const body = JSON.stringify({ folder });
  const headers = { "Content-Type": "application/json" };
  const response = await api.fetchApi("/hierdiff/open", { method: "POST", headers, body }).catch(() => null);
  const answer = (await response?.json().catch(() => null)) ?? {};
  if (answer.opened) return "";
  if (answer.path) return text("folder.at", { path: answer.path });
  return text("folder.failed", { reason: answer.error ?? text("folder.away") });
}
