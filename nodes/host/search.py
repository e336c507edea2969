"""Search words: other names under which the page's node search finds a node (ComfyUI 0.11 and later).

On older hosts web/search.js adds them, from web/search_words.json, which must be kept the same.
"""

import dataclasses
from typing import Any

from comfy_api.latest import io


def search_words(*aliases: str) -> dict[str, Any]:
    """Arguments of `io.Schema` with a node's search words: none where the host would refuse them."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(aliases)} if "search_aliases" in known else {}
