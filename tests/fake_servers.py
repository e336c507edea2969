"""ComfyUI servers of a few lines, in threads: they draw a shard by writing what it is, and can be dead, slow or lie."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHARD, SCHEDULE, SAMPLER, SAVE, SET, EMBED, LINK = (
    "HierDiffPlanShard",
    "HierDiffThresholdSchedule",
    "HierDiffBranchingSampler",
    "HierDiffSaveSet",
    "HierDiffPromptSet",
    "HierDiffPriorEmbedding",
    "HierDiffWardLinkage",
)


def info(inputs, outputs, output_node=False):
    return {"input": {"required": inputs}, "output": outputs, "output_node": output_node}


INFOS = {
    SET: info({"text": ["STRING", {}]}, ["HIERDIFF_PROMPTS", "INT"]),
    EMBED: info({"prompts": ["HIERDIFF_PROMPTS"]}, ["HIERDIFF_EMBEDDINGS"]),
    LINK: info({"embeddings": ["HIERDIFF_EMBEDDINGS"]}, ["HIERDIFF_LINKAGE"]),
    SCHEDULE: info({"linkage": ["HIERDIFF_LINKAGE"]}, ["HIERDIFF_PLAN", "IMAGE"]),
    SHARD: info({"plan": ["HIERDIFF_PLAN"], "index": ["INT"], "count": ["INT"]}, ["HIERDIFF_PLAN", "HIERDIFF_PROMPTS"]),
    SAMPLER: info(
        {"plan": ["HIERDIFF_PLAN"], "scheduler": [["DDPM", "DDIM"], {}], "embeddings": ["HIERDIFF_EMBEDDINGS"]},
        ["IMAGE"],
    ),
    SAVE: info({"prompts": ["HIERDIFF_PROMPTS"], "images": ["IMAGE"], "folder": ["STRING"]}, ["STRING"], True),
    "SaveImage": info({"images": ["IMAGE"], "filename_prefix": ["STRING"]}, [], True),
    "HierDiffPlanGuidance": info({"plan": ["HIERDIFF_PLAN"]}, ["HIERDIFF_PLAN"]),
}


def a_workflow():
    """A set, its plan, a sampler, and what saves it, without a Plan Shard."""
    return {
        "1": {"class_type": SET, "inputs": {"text": "a cat\na dog"}},
        "2": {"class_type": EMBED, "inputs": {"prompts": ["1", 0]}},
        "3": {"class_type": LINK, "inputs": {"embeddings": ["2", 0]}},
        "4": {"class_type": SCHEDULE, "inputs": {"linkage": ["3", 0]}},
        "5": {"class_type": SAMPLER, "inputs": {"plan": ["4", 0], "scheduler": "DDPM", "embeddings": ["2", 0]}},
        "6": {
            "class_type": SAVE,
            "inputs": {"prompts": ["1", 0], "images": ["5", 0], "folder": "cats", "name": "{index:04d}"},
        },
    }


class FakeServer:
    """A server on a free port of 127.0.0.1.

    infos      what it says of its nodes
    code       its version of the pack; None: it has none
    refuses    message of its answer to each POST /prompt
    fails      message that its runs end with
    holds      its runs wait until `release` is set
    files      of a shard, (index, count) -> {path: bytes}
    lists      what it says of a run's files, from what it has; to lie
    forgets    it drops what is queued
    """

    def __init__(self, infos=INFOS, code="v1", **behaviour):
        self.infos, self.code = infos, code
        self.behaviour = {"refuses": None, "fails": None, "holds": False, "forgets": False, "lists": None, **behaviour}
        self.release, self.queued, self.drawn, self.cancelled = threading.Event(), {}, [], []
        self.asked = threading.Condition()
        handler = type("Handler", (Handler,), {"fake": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.address = f"127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.die()

    def die(self):
        """As after kill -9: nobody listens any more."""
        if self.thread is not None:
            self.http.shutdown()
            self.http.server_close()
            self.thread.join()
            self.thread = None

    def wait_until_queued(self, count=1):
        with self.asked:
            assert self.asked.wait_for(lambda: len(self.queued) >= count, 30)

    def queue(self, prompt, prompt_id):
        shard = next(node["inputs"] for node in prompt.values() if node["class_type"] == SHARD)
        save = next((node["inputs"] for node in prompt.values() if node["class_type"] == SAVE), None)
        run = save["folder"].split("/")[1] if save else "none"
        with self.asked:
            self.queued[prompt_id] = {"index": shard["index"], "count": shard["count"], "run": run, "prompt": prompt}
            if not self.behaviour["fails"] and not self.behaviour["forgets"]:
                self.drawn.append(shard["index"])
            self.asked.notify_all()

    def history(self, prompt_id):
        if prompt_id not in self.queued or self.behaviour["forgets"]:
            return {}
        if prompt_id in self.cancelled:
            return {prompt_id: {"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}}}
        if self.behaviour["fails"]:
            details = {"node_id": "5", "node_type": SAMPLER, "exception_message": self.behaviour["fails"]}
            return {prompt_id: {"status": {"status_str": "error", "messages": [["execution_error", details]]}}}
        if self.behaviour["holds"] and not self.release.is_set():
            return {}
        return {prompt_id: {"status": {"status_str": "success"}, "outputs": {}}}

    def files(self, run):
        """What a shard writes: two pictures of its own, and a line for each."""
        (own,) = [each for each in self.queued.values() if each["run"] == run]
        index = own["index"]
        names = [f"{2 * index + i:04d}.png" for i in range(2)]
        made = {f"set/cats/{name}": f"picture {name} of {own['count']}".encode() for name in names}
        lines = [json.dumps({"file_name": name, "text": f"caption {name}"}) + "\n" for name in names]
        return {**made, "set/cats/metadata.jsonl": "".join(lines).encode()}


class Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        fake, parts = self.fake, urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path == "/system_stats":
            self.answer(
                {"system": {"comfyui_version": "0.3.75", "pytorch_version": "2.9"}, "devices": [{"name": "cpu"}]}
            )
        elif parts.path == "/hierdiff/shards" and "run" in query:
            listed = [listed_file(*each) for each in fake.files(query["run"]).items()]
            lists = fake.behaviour["lists"]
            self.answer({"files": lists(listed) if lists else listed})
        elif parts.path == "/hierdiff/shards":
            self.answer({"code": fake.code} if fake.code else {"error": "?"}, 200 if fake.code else 404)
        elif parts.path.startswith("/object_info/"):
            name = parts.path.rpartition("/")[2]
            self.answer({name: fake.infos[name]} if name in fake.infos else {})
        elif parts.path == "/object_info":
            self.answer(fake.infos)
        elif parts.path.startswith("/history/"):
            self.answer(fake.history(parts.path.rpartition("/")[2]))
        elif parts.path == "/queue":
            waiting = [] if fake.behaviour["forgets"] else [p for p in fake.queued if not fake.history(p)]
            self.answer({"queue_running": [[0, p] for p in waiting], "queue_pending": []})
        elif parts.path == "/view":
            _, run, below = query["subfolder"].split("/", 2)
            found = fake.files(run).get(f"{below}/{query['filename']}")
            self.answer(found if found is not None else b"", 200 if found is not None else 404)
        else:
            self.answer({}, 404)

    def do_POST(self):
        fake = self.fake
        value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/prompt" and fake.behaviour["refuses"]:
            self.answer({"error": {"message": fake.behaviour["refuses"], "details": ""}, "node_errors": {}}, 400)
        elif self.path == "/prompt":
            fake.queue(value["prompt"], value["prompt_id"])
            self.answer({"prompt_id": value["prompt_id"], "number": 1, "node_errors": {}})
        else:
            if self.path == "/interrupt":
                fake.cancelled.append(value["prompt_id"])
            self.answer(b"")


def listed_file(path, data):
    return {"path": path, "size": len(data), "digest": hashlib.blake2b(data, digest_size=16).hexdigest()}
