"""Write the English texts of the nodes, locales/en/nodeDefs.json, from a running server's /object_info.

So they cannot drift from the nodes. Lists what other languages lack, or have too much of; exits with 1 if there is any.

    python scripts/build_locales.py
"""

import json
import re
import sys

from comfyui_host import REPO_ROOT, ComfyServer

LOCALES = REPO_ROOT / "locales"
# Characters that mean something to vue-i18n, by which the front end shows these texts. Escapes are no way out: by its
# version, the front end compiles tooltips or shows them as they are.
SYNTAX = re.compile(r"[{}|@$\\]|%\{")


def texts_of(info):
    """Every text of a node, as the front end asks for it, from its entry in /object_info."""
    inputs = {}
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            _, options = (*info["input"][kind][name], {})[:2]
            inputs[name.replace(".", "_")] = entry(options.get("display_name") or name, options.get("tooltip"))
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": {str(i): entry(name, tooltip) for i, (name, tooltip) in enumerate(outputs)},
    }


def entry(name, tooltip):
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def all_texts(object_info):
    """Texts of all nodes of this pack."""
    return {name: texts_of(info) for name, info in object_info.items() if name.startswith("HierDiff")}


def without_syntax(texts):
    """A copy without the texts that vue-i18n would misread: in their place the front end shows the node's own."""
    if isinstance(texts, str):
        return texts
    kept = {key: without_syntax(value) for key, value in texts.items()}
    return {key: value for key, value in kept.items() if not (isinstance(value, str) and SYNTAX.search(value))}


def paths(texts, before=""):
    """Flatten to {"HierDiffPromptSet.inputs.text.name": text}."""
    flat = {}
    for key, value in texts.items():
        flat |= {before + key: value} if isinstance(value, str) else paths(value, f"{before}{key}.")
    return flat


def read(language, name="nodeDefs"):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def languages():
    """Languages that are translated by hand."""
    return sorted(path.parent.name for path in LOCALES.glob("*/nodeDefs.json") if path.parent.name != "en")


def main():
    with ComfyServer() as server:
        texts = all_texts(server.object_info())
    path = LOCALES / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_syntax(texts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.relative_to(REPO_ROOT))
    wanted, wrong = set(paths(texts)), 0
    for language in languages():
        found = set(paths(read(language)))
        for word, keys in (("lacks", wanted - found), ("has too many:", found - wanted)):
            wrong += len(keys)
            for key in sorted(keys):
                print(f"{language} {word} {key}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
