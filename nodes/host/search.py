"""Other words under which the page's search finds a node, for hosts that know such words (ComfyUI 0.11 and later).

For older ones web/search.js brings them along, from web/search_words.json, which must be kept the same.
"""

import dataclasses
from typing import Any

from comfy_api.latest import io


def found_as(*aliases: str) -> dict[str, Any]:
    """Arguments of `io.Schema`: none where the host would refuse them."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(aliases)} if "search_aliases" in known else {}
