// The menu HierDiff: the templates, one click away. Their pictures are in ComfyUI's own browser of templates.

import { text } from "./texts.js";

const TEMPLATES = ["quickstart", "any_model", "lora_set", "compare", "upscale", "kandinsky22"];
// ComfyUI serves this file and the templates under the name of the pack's folder.
const FOLDER = new URL(import.meta.url).pathname.split("/").at(-2);

async function open(app, api, template) {
  const name = `hierdiff_${template}`;
  const response = await api.fetchApi(`/workflow_templates/${FOLDER}/${name}.json`);
  if (!response.ok) throw new Error(`${name}.json: ${response.status} ${response.statusText}`);
  await app.loadGraphData(await response.json(), true, true, name);
}

/** What the extension adds to the page's menu: {commands, menuCommands}; `others` are commands that are in no menu. */
export function templateMenu(app, api, others = []) {
  const commands = TEMPLATES.map((template) => ({
    id: `HierDiff.Open.${template}`,
    icon: "pi pi-sitemap",
    label: text(`menu.${template}`),
    function: () => open(app, api, template),
  }));
  commands.push({
    id: "HierDiff.BrowseTemplates",
    icon: "pi pi-th-large",
    label: text("menu.all"),
    function: () => app.extensionManager.command.execute("Comfy.BrowseTemplates"),
  });
  const menuCommands = [{ path: ["HierDiff"], commands: commands.map((command) => command.id) }];
  return { commands: [...commands, ...others], menuCommands };
}
