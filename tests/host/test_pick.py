"""Pick: a run waits for its page to choose pictures, and goes on with these."""

import asyncio
import importlib
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hierdiff_core import Budget, Profile, PromptEmbeddings, PromptTree, build_plan, plan_for
from hierdiff_core.prompts.rows import PromptRow, PromptRows

pytestmark = pytest.mark.host

N = 6
TEXTS = [f"prompt {i}" for i in range(N)]


@pytest.fixture(scope="module")
def module(pack):
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.{name}")


@pytest.fixture
def questions(module):
    return module("host.questions")


@pytest.fixture
def sent(module, questions, monkeypatch):
    """What was sent, and to whom; two clients have queued one workflow with two Picks."""
    from comfy_execution.utils import CurrentNodeContext

    heard = []

    class Server:
        client_id = "page"
        prompt_queue = SimpleNamespace(currently_running={})

        def send_sync(self, event, data, client):
            heard.append((event, json.loads(json.dumps(data)), client))

    server = Server()
    monkeypatch.setattr(module("host.runs"), "PromptServer", SimpleNamespace(instance=server))
    monkeypatch.setattr(questions, "_open", {})

    def running(node="2", client="page"):
        server.client_id = client
        return CurrentNodeContext("p1", node)

    return SimpleNamespace(heard=heard, running=running)


@pytest.fixture
def images():
    return torch.rand(N, 8, 12, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vectors():
    return torch.randn(N, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def plan(vectors):
    return plan_for(PromptTree.of(vectors, "chord", TEXTS), Budget("saving", 0.5), Profile(8))


@pytest.fixture
def embeddings(vectors):
    return PromptEmbeddings(vectors, torch.zeros_like(vectors), TEXTS)


@pytest.fixture
def pick(module):
    def run(images, **inputs):
        out = module("pick").Pick.PREPARE_CLASS_CLONE({}).execute(images, **inputs)
        names = ("images", "latent", "plan", "prompts", "embeddings", "report")
        return SimpleNamespace(**dict(zip(names, out.args, strict=True)), ui=out.ui)

    return run


def ask_of(questions, client):
    request = SimpleNamespace(query={} if client is None else {"clientId": client})
    return json.loads(asyncio.run(questions.picks_of_client(request)).text)


def answer_of(questions, **given):
    async def body():
        return given

    response = asyncio.run(questions.pick_of_client(SimpleNamespace(json=body)))
    return response.status, json.loads(response.text)


def in_background(work):
    """A thread that does some work, and a list of what came of it."""
    found = []

    def run():
        try:
            found.append(work())
        except BaseException as error:  # the host's interruption may be one
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def waiting(questions, client="page", count=1):
    deadline = time.monotonic() + 10
    while len(found := ask_of(questions, client)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


# --- The choice as a text


def test_a_list_of_numbers_is_taken_without_asking(pick, images, plan, embeddings):
    rows = PromptRows(PromptRow(text, seed=None, negative=f"no {text}") for text in TEXTS)
    latent = {"samples": torch.rand(N, 4, 8, 8), "noise_mask": torch.rand(N, 1, 8, 8), "batch_index": list(range(N))}
    got = pick(images, latent=latent, plan=plan, prompts=rows, embeddings=embeddings, choice="0, 3-4")
    which = [0, 3, 4]
    assert torch.equal(got.images, images[which])
    assert torch.equal(got.latent["samples"], latent["samples"][which])
    assert torch.equal(got.latent["noise_mask"], latent["noise_mask"][which])
    assert got.latent["batch_index"] == which
    assert got.prompts == ("prompt 0", "prompt 3", "prompt 4")
    assert [row.negative for row in got.prompts.rows] == ["no prompt 0", "no prompt 3", "no prompt 4"]
    assert got.plan.prompts == got.prompts
    assert got.plan.frozen is not None
    assert got.embeddings is embeddings  # means of shared branches are made of all of them
    assert got.report == "3 of 6 pictures go on: 0, 3-4"


def test_what_was_chosen_keeps_its_branches(pick, images, plan):
    got = pick(images, plan=plan, choice="1,5").plan
    for k in range(plan.num_steps):
        own = dict(zip(plan.branch_keys(k), plan.founders(k), strict=True))
        kept = plan.steps[k].labels[[1, 5]]
        assert got.branch_keys(k) == [plan.branch_keys(k)[c] for c in dict.fromkeys(kept.tolist())]
        for key, founders in zip(got.branch_keys(k), got.founders(k), strict=True):
            theirs = [got.leaf_keys[i] for i in founders]
            assert sorted(theirs) == sorted(plan.prompt_keys[i] for i in own[key])


def test_without_a_plan_the_embeddings_are_of_the_choice(pick, images, embeddings):
    got = pick(images, embeddings=embeddings, choice="2 4").embeddings
    assert got.prompts == ("prompt 2", "prompt 4")
    assert torch.equal(got.positive, embeddings.positive[[2, 4]])


def test_a_choice_of_all_hands_everything_on_as_it_is(pick, images, plan, embeddings):
    got = pick(images, plan=plan, embeddings=embeddings, prompts=tuple(TEXTS), choice="0-5")
    assert got.images is images
    assert got.plan is plan
    assert got.latent is None


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        (" , ", ()),
        ("3", (3,)),
        ("5, 1-2,1", (1, 2, 5)),
        ("0 2 – 3; 5", (0, 2, 3, 5)),
        ("1，3、4", (1, 3, 4)),
    ],
)
def test_numbers_and_ranges_are_read(module, text, numbers):
    assert module("pick").numbers_of(text, N) == numbers
    assert module("pick").numbers_of(module("pick").ranges(numbers), N) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6", r"choice names picture 6, but there are 6, with numbers from 0 to 5"),
        ("0-999999999", r"choice names picture 999999999"),
        ("4-2", r"choice has a range that runs backwards: '4-2'; write 2-4"),
        ("all", r"choice must be numbers of pictures such as \"0, 3-5\"; got 'all'"),
        ("-1", r"choice must be numbers of pictures"),
        ("1.5", r"choice must be numbers of pictures"),
        ("9" * 50, r"choice must be numbers of pictures"),
        ("1," * 20_000, r"choice must have at most 20000 characters; got 40000"),
        ("x" * 500, r"got 'x{80}'$"),
    ],
)
def test_a_choice_that_is_none_is_refused_by_name(pick, images, text, message):
    with pytest.raises(ValueError, match=message):
        pick(images, choice=text)


def test_a_wrong_text_is_refused_when_it_is_queued(module):
    node = module("pick").Pick
    assert node.validate_inputs(choice="1, 2-3") is True
    assert "choice must be numbers" in node.validate_inputs(choice="first")
    assert node.validate_inputs(choice=None) is True  # it comes through a link


def test_each_run_without_a_choice_asks_anew(module):
    prints = [module("pick").Pick.fingerprint_inputs(choice=text, timeout=3) for text in ("", " ", "1", "1", None)]
    assert len(set(prints)) == 4
    assert prints[2] == prints[3] == "1"


def test_inputs_of_other_prompts_are_refused_before_anybody_is_asked(pick, questions, images, plan, embeddings):
    with pytest.raises(ValueError, match="there are 5 images, but plan is of 6 prompts"):
        pick(images[:5], plan=plan)
    with pytest.raises(ValueError, match="but embeddings is of 6 prompts"):
        pick(images[:5], embeddings=embeddings, choice="1")
    with pytest.raises(ValueError, match="but latent is of 1 prompts"):
        pick(images, latent={"samples": torch.rand(1, 4, 8, 8)})
    by_hand = build_plan(np.array([[0, 1, 0.5, 2]]), [1.0, 0.0])
    with pytest.raises(ValueError, match="a plan without prompt_keys cannot be changed"):
        pick(images[:2], plan=by_hand)
    with pytest.raises(ValueError, match="no images"):
        pick(images[:0])


def test_more_pictures_than_a_page_shows_need_a_list(module, pick, images, monkeypatch):
    monkeypatch.setattr(module("pick"), "MOST_SHOWN", 5)
    with pytest.raises(ValueError, match="at most 5 pictures to choose from; got 6: write their numbers into choice"):
        pick(images)
    assert pick(images, choice="1").ui["hierdiff_pick"][0]["pictures"] == []


# --- Asking


def test_the_run_waits_and_goes_on_with_what_the_page_chose(pick, questions, sent, images):
    def work():
        with sent.running():
            return pick(images, prompts=tuple(TEXTS), timeout=60)

    thread, found = in_background(work)
    (asked,) = waiting(questions)
    assert (asked["node"], asked["prompt_id"], asked["texts"]) == ("2", "p1", TEXTS)
    assert len(asked["pictures"]) == N
    assert 50 < asked["left"] <= 60
    assert answer_of(questions, clientId="page", id=asked["id"], chosen=[4, 1, 1]) == (200, {})
    thread.join(10)
    (got,) = found
    assert torch.equal(got.images, images[[1, 4]])
    told = got.ui["hierdiff_pick"][0]
    assert (told["chosen"], told["how"], told["texts"]) == ([1, 4], "answered", TEXTS)
    assert told["pictures"] == asked["pictures"]
    picks = [(data, client) for event, data, client in sent.heard if event == "hierdiff.pick"]
    assert [data["kind"] for data, _ in picks] == ["ask", "closed"]
    assert {client for _, client in picks} == {"page"}
    assert ask_of(questions, "page") == []


def test_pictures_are_small_files_of_the_hosts(pick, questions, sent, images, module):
    from PIL import Image

    files = pick(torch.rand(2, 600, 900, 4), choice="0").ui["hierdiff_pick"][0]["pictures"]
    folder = module("host.folders").temporary_folder()
    for file in files:
        assert (file["subfolder"], file["type"]) == ("hierdiff", "temp")
        assert Image.open(f"{folder}/{file['subfolder']}/{file['filename']}").size == (512, 341)


def test_two_clients_and_two_nodes_do_not_mix(questions, sent):
    def asking(node, client):
        with sent.running(node, client):
            question = questions.Question([{}] * 3, [""] * 3, 30)
        return in_background(lambda: (questions.ask(question), question.chosen))

    runs = [asking("2", "page"), asking("5", "page"), asking("2", "other")]
    mine, theirs = waiting(questions, "page", 2), waiting(questions, "other")
    assert [question["node"] for question in mine] == ["2", "5"]
    assert ask_of(questions, None) == ask_of(questions, "") == ask_of(questions, "third") == []
    status, said = answer_of(questions, clientId="other", id=mine[0]["id"], chosen=[0])
    assert (status, "no longer open" in said["error"]) == (400, True)
    assert answer_of(questions, id=mine[0]["id"], chosen=[0])[0] == 400
    for i, question in enumerate([*mine, *theirs]):
        client = "page" if i < 2 else "other"
        assert answer_of(questions, clientId=client, id=question["id"], chosen=[i]) == (200, {})
    for i, (thread, found) in enumerate(runs):
        thread.join(10)
        assert found == [("answered", (i,))]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([], "choose at least one picture"),
        ([3], "numbers from 0 to 2; got 3"),
        ([-1], "numbers from 0 to 2"),
        ([True], "numbers from 0 to 2"),
        (["0"], "numbers from 0 to 2"),
        ([[0]], "numbers from 0 to 2"),
        ([0, 0, 0, 0], "a list of at most 3 numbers"),
        ("0", "a list of at most 3 numbers"),
        (None, "a list of at most 3 numbers"),
    ],
)
def test_answers_that_are_none_are_refused_and_the_question_stays_open(questions, sent, chosen, said):
    with sent.running():
        question = questions.Question([{}] * 3, [""] * 3, 30)
    with questions.asked(question):
        status, answer = answer_of(questions, clientId="page", id=question.id, chosen=chosen)
        assert status == 400
        assert said in answer["error"]
        assert [open_one["id"] for open_one in ask_of(questions, "page")] == [question.id]
        assert answer_of(questions, clientId="page", id=question.id, chosen=[2])[0] == 200
        assert answer_of(questions, clientId="page", id=question.id, chosen=[1])[0] == 400
    assert question.chosen == (2,)


def test_a_request_that_is_no_json_object_is_refused(questions):
    async def broken():
        raise json.JSONDecodeError("no", "", 0)

    async def a_list():
        return [1]

    for body in (broken, a_list):
        assert asyncio.run(questions.pick_of_client(SimpleNamespace(json=body))).status == 400


def test_time_that_is_over_lets_all_go_on_and_says_so(pick, questions, sent, images, monkeypatch):
    with sent.running():
        began = time.monotonic()
        got = pick(images, timeout=1)
    assert time.monotonic() - began < 5
    assert got.images is images
    assert got.report == "⚠ nobody chose within 1 seconds: all 6 pictures go on"
    assert ask_of(questions, "page") == []


def test_a_run_that_no_page_has_queued_does_not_wait(pick, sent, images):
    with sent.running(client=None):
        got = pick(images, timeout=600)
    assert got.images is images
    assert got.report.startswith("⚠ no page has queued this run")
    assert sent.heard == []


def test_a_single_picture_is_no_question(pick, sent, images):
    with sent.running():
        assert pick(images[:1]).report == "the only picture goes on"


def test_cancelling_ends_the_wait_and_closes_the_question(pick, questions, sent, images):
    import comfy.model_management as management

    def work():
        with sent.running():
            return pick(images, timeout=600)

    thread, found = in_background(work)
    (asked,) = waiting(questions)
    management.interrupt_current_processing()
    thread.join(10)
    assert isinstance(found[0], management.InterruptProcessingException)
    assert ask_of(questions, "page") == []
    assert answer_of(questions, clientId="page", id=asked["id"], chosen=[0])[0] == 400
    assert sent.heard[-1][1]["kind"] == "closed"


def test_the_devices_memory_is_given_back_once_where_nobody_answers_for_long(questions, sent, monkeypatch):
    monkeypatch.setattr(questions, "RELEASED_AFTER", 0.05)
    released = []
    with sent.running():
        question = questions.Question([{}] * 2, [""] * 2, 0.6)
    assert questions.ask(question, lambda: released.append(question.left)) == questions.LATE
    assert len(released) == 1


@pytest.mark.parametrize(("choice", "told"), [("", False), ("1", True)])
def test_another_client_that_queues_the_same_is_not_told_what_the_first_has_chosen(
    module, sent, images, pick, monkeypatch, choice, told
):
    results, runs = module("host.results"), module("host.runs")
    monkeypatch.setattr(results, "_kept", runs.Kept(8))
    prompt = {"2": {"class_type": "HierDiffPick", "inputs": {"choice": choice}}}
    queue = runs.PromptServer.instance.prompt_queue
    queue.get_history = lambda prompt_id: {}
    for prompt_id, client in (("p1", "page"), ("p2", "other")):
        extra = {"client_id": client, "extra_pnginfo": {"workflow": {"id": "flow"}}}
        queue.currently_running = {0: (0, prompt_id, prompt, extra, [])}
        if client == "page":
            with sent.running():
                pick(images, choice=choice, timeout=1)
    request = SimpleNamespace(query={"clientId": "other", "prompt_id": "p2"})
    assert bool(json.loads(asyncio.run(results.results_of_client(request)).text)) == told


# --- On a server


def graph_with(choice, timeout=60):
    return {
        "images": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 4, "color": 255}},
        "pick": {
            "class_type": "HierDiffPick",
            "inputs": {"images": ["images", 0], "choice": choice, "timeout": timeout},
        },
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["pick", 0]}},
    }


def test_on_a_server_the_client_answers_by_the_routes_and_is_asked_anew_each_time(comfyui):
    for chosen in ([0, 3], [2]):
        prompt_id = comfyui.queue(graph_with(""), client_id="tester")
        deadline = time.monotonic() + 30
        while not (found := comfyui.get("/hierdiff/picks?clientId=tester")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert comfyui.get("/hierdiff/picks?clientId=other") == comfyui.get("/hierdiff/picks") == []
        assert comfyui.post("/hierdiff/pick", {"clientId": "tester", "id": found[0]["id"], "chosen": chosen}) == {}
        outputs = comfyui.wait(prompt_id, timeout=30)["outputs"]
        assert len(outputs["save"]["images"]) == len(chosen)
    assert len(comfyui.run(graph_with("1-3"))["outputs"]["save"]["images"]) == 3
