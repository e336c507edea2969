"""What the page can ask the host's server for, beside the host's own routes."""

from __future__ import annotations

from collections.abc import Callable

from server import PromptServer

from .comparison import comparison_of_client
from .live_tree import trees_of_client
from .results import results_of_client


def add_routes(shape_of_settings: Callable) -> None:
    """Answer the page's questions; `shape_of_settings` is the one of Threshold Schedule."""
    routes = PromptServer.instance.routes
    routes.get("/hierdiff/trees")(trees_of_client)
    routes.get("/hierdiff/results")(results_of_client)
    routes.post("/hierdiff/compare")(comparison_of_client)
    routes.post("/hierdiff/shape")(shape_of_settings)
