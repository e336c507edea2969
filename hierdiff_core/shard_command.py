"""``hierdiff shard workflow.json --servers a,b,c``: several ComfyUI servers draw one set."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files.folder_lock import held
from .files.whole_files import try_writing
from .sampling.pace import in_words
from .servers.checks import Known, ask_all, differences, problems
from .servers.client import Refused, Server, ServerGone
from .servers.folder import STATE, SetFolder
from .servers.run import ShardRun
from .servers.workflow import HOW_TO_EXPORT, SplitWorkflow, check_prompt, classes_of, split

SHARD = "shard"  # the first argument
SHARDS_PER_SERVER = 3  # so that a dead server costs little
LARGEST_WORKFLOW = 1 << 28  # bytes
MOST_SERVERS, MOST_SHARDS = 1000, 10_000
CONVERTER = Path(__file__).resolve().parent.parent / "scripts" / "workflow_api.py"  # beside the pack's own copy


def shard_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        prog=f"{'hierdiff' if Path(sys.argv[0]).stem == 'hierdiff' else 'python -m hierdiff_core'} {SHARD}",
        description="Draw the set of a ComfyUI workflow on several ComfyUI servers: each draws shards of it, and the "
        "files are collected in one folder. All need the same version of HierDiff, the same models and their port open "
        "to this machine.",
        epilog="Interrupted, it cancels what it has queued; the same command goes on with what is missing.",
    )
    parser.add_argument("workflow", type=Path, help="of ComfyUI, in API format")
    parser.add_argument("--servers", required=True, help="addresses, with commas: 10.0.0.5:8188,10.0.0.6")
    parser.add_argument("--out", type=Path, default=Path("hierdiff_shards"), help="folder for the files")
    parser.add_argument(
        "--shards", type=int, help=f"parts of the set (default: {SHARDS_PER_SERVER} for each server)", metavar="N"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS", help="how long a server may not answer"
    )
    parser.add_argument(
        "--slow",
        type=float,
        default=3.0,
        metavar="TIMES",
        help="a shard that takes so many times as long as others is given to a free server too",
    )
    return parser


def shard(arguments: Sequence[str]) -> int:
    """0: all is drawn; 1: refused, or something is missing; 130: interrupted."""
    options = shard_parser().parse_args(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        tell("interrupted; what was queued is cancelled, and the same command goes on with what is missing")
        return 130


def run(options: argparse.Namespace) -> int:
    """Check everything, then draw."""
    servers = servers_of(options.servers)
    for name, value, most in (("--shards", options.shards, MOST_SHARDS), ("--slow", options.slow, 1e6)):
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"{name} must be from 1 to {most:g}; got {value:g}")
    if not 0 < options.patience <= 1e6:
        raise ValueError(f"--patience must be seconds above 0; got {options.patience:g}")
    prompt, extra = read_workflow(options.workflow, servers)
    known = checked_servers(servers, prompt)
    workflow = split(prompt, known[0].infos)
    for note in (*workflow.notes, *differences(known)):
        tell(note)
    options.out.mkdir(parents=True, exist_ok=True)
    try_writing(options.out / STATE)
    with held(options.out):
        default = SHARDS_PER_SERVER * len(servers)
        folder = SetFolder.begun(options.out, workflow.digest, options.shards, default)
        return drawn(workflow, [each.server for each in known], folder, options, extra)


def drawn(
    workflow: SplitWorkflow, servers: list[Server], folder: SetFolder, options: argparse.Namespace, extra: Any
) -> int:
    """Draw what is missing of a set."""
    began = time.monotonic()
    if folder.done:
        tell(f"{len(folder.done)} of {folder.count} shards are there already")
    lost = ShardRun(workflow, servers, folder, tell, options.patience, options.slow, extra).run()
    for number, why in lost.items():
        tell(f"⚠ shard {number} is missing{f': {why}' if why else ''}")
    if lost:
        tell(f"{len(lost)} of {folder.count} shards are missing; the same command tries them again")
        return 1
    folder.clean()
    files = sum(own.get("files", 0) for own in folder.done.values())
    print(f"{files} files of {folder.count} shards in {options.out}, {in_words(time.monotonic() - began)}")
    return 0


def servers_of(text: str) -> list[Server]:
    """The servers of an option; `ValueError` where there is none, or one twice."""
    found = [Server(address) for address in text.split(",") if address.strip()]
    names = [server.url for server in found]
    twice = sorted({server.name for server in found if names.count(server.url) > 1})
    if not found or twice or len(found) > MOST_SERVERS:
        what = f"{twice[0]} twice" if twice else f"{len(found)} servers"
        raise ValueError(f"--servers must be 1 to {MOST_SERVERS} addresses with commas, each once; got {what}")
    return found


def read_workflow(path: Path, servers: Sequence[Server]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The workflow of a file in API format, and what goes along with it for the pictures' metadata.

    Raises
    ------
    ValueError
        If it cannot be read; it says how a workflow is exported.
    """
    if path.stat().st_size > LARGEST_WORKFLOW:
        raise ValueError(f"{path} has more than {LARGEST_WORKFLOW >> 20} MB")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): {HOW_TO_EXPORT}") from None
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return check_prompt(converted(data, servers)), {"extra_pnginfo": {"workflow": data}}
    return check_prompt(data), None


def converted(data: dict[str, Any], servers: Sequence[Server]) -> dict[str, Any]:
    """An ordinary workflow in API format, where a checkout of the pack is here that can convert simple ones."""
    spec = importlib.util.spec_from_file_location("hierdiff_workflow_api", CONVERTER) if CONVERTER.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"this is a workflow as the page saves it, not in API format: {HOW_TO_EXPORT}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    why = ""
    for server in servers:
        try:
            return module.to_api(data, server.get("/object_info"))
        except (ServerGone, Refused) as error:
            why = str(error)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"the workflow cannot be converted ({error}): {HOW_TO_EXPORT}") from None
    raise ValueError(f"no server answers: {why}")


def checked_servers(servers: Sequence[Server], prompt: dict[str, Any]) -> list[Known]:
    """The servers that answer.

    Raises
    ------
    ValueError
        If none does, or one lacks something: it names them all.
    """
    known, silent = ask_all(servers, classes_of(prompt))
    if not known:
        raise ValueError("no server answers: " + "; ".join(silent.values()))
    wrong = problems(known, prompt)
    if wrong:
        raise ValueError("nothing was queued: " + "; ".join(wrong))
    for why in silent.values():
        tell(f"⚠ {why}: the others draw without it")
    return known


def tell(message: object) -> None:
    """A line of progress."""
    print(f"hierdiff: {message}", file=sys.stderr, flush=True)
