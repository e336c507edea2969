"""What the page can ask the host's server for, beside the host's own routes."""

from __future__ import annotations

from collections.abc import Callable

from server import PromptServer

from .comparison import comparison_of_client
from .live_tree import trees_of_client
from .open_folder import open_folder
from .prices import price_of_run
from .questions import pick_of_client, picks_of_client
from .results import results_of_client
from .shard_files import shards_of_client


def add_routes(shape_of_settings: Callable, table_of_text: Callable, table_of_file: Callable) -> None:
    """Answer the page's questions: those given are of Threshold Schedule and Prompt Table."""
    routes = PromptServer.instance.routes
    routes.get("/hierdiff/trees")(trees_of_client)
    routes.get("/hierdiff/results")(results_of_client)
    routes.post("/hierdiff/compare")(comparison_of_client)
    routes.post("/hierdiff/shape")(shape_of_settings)
    routes.post("/hierdiff/table")(table_of_text)
    routes.post("/hierdiff/table/file")(table_of_file)
    routes.post("/hierdiff/open")(open_folder)
    routes.post("/hierdiff/price")(price_of_run)
    routes.get("/hierdiff/shards")(shards_of_client)
    routes.get("/hierdiff/picks")(picks_of_client)
    routes.post("/hierdiff/pick")(pick_of_client)
