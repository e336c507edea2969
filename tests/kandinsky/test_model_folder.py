"""Folders of models that come from anywhere: what they may make the libraries do, and what is said of broken ones."""

import json
import os
import sys

import pytest

from hierdiff_core.kandinsky.loading import load_decoder, load_prior
from hierdiff_core.kandinsky.model_folder import (
    BUNDLED,
    DECODER_CLASS,
    PRIOR_CLASS,
    check_folder,
    pipeline_class,
    suitable_settings,
)

LOADERS = {"prior": load_prior, "decoder": load_decoder}
CLASSES = {"prior": PRIOR_CLASS, "decoder": DECODER_CLASS}
DEEP = "[" * 60_000
# As they stand in kandinsky-community/kandinsky-2-2-prior and -decoder.
PUBLISHED = {
    "prior": {
        "_class_name": PRIOR_CLASS,
        "_diffusers_version": "0.17.1",
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
        "prior": ["diffusers", "PriorTransformer"],
        "scheduler": ["diffusers", "UnCLIPScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    },
    "decoder": {
        "_class_name": DECODER_CLASS,
        "_diffusers_version": "0.17.1",
        "movq": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    },
}


@pytest.fixture
def model(tmp_path):
    """Makes a folder of links to the bundled model's files, of which some are replaced by others or taken away."""

    def make(part, replaced=(), removed=(), name="shared-model"):
        folder = tmp_path / name
        for path in (BUNDLED / part).rglob("*"):
            target = folder / path.relative_to(BUNDLED / part)
            if path.is_file() and target.relative_to(folder).as_posix() not in removed:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        for file, content in dict(replaced).items():
            (folder / file).unlink(missing_ok=True)
            if isinstance(content, dict):
                content = json.dumps(content)
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make


def config(part, file, **changes):
    return {**json.loads((BUNDLED / part / file).read_text(encoding="utf-8")), **changes}


def index(part, **changes):
    return {"model_index.json": config(part, "model_index.json", **changes)}


@pytest.mark.parametrize("part", LOADERS)
def test_index_of_the_published_model_is_accepted(part, model):
    assert check_folder(model(part, {"model_index.json": PUBLISHED[part]}), CLASSES[part]) is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scheduler": ["poisoned_part", "Scheduler"]}, r'names \["poisoned_part", "Scheduler"\] as scheduler'),
        ({"safety_checker": ["poisoned_part", "Checker"]}, "names a part that a KandinskyV22Pipeline does not have"),
        ({"movq": ["diffusers", "AutoencoderKL"]}, r'only \["diffusers", "VQModel"\] is loaded there'),
        ({"movq": ["diffusers.utils", "VQModel"]}, "as movq"),
        ({"unet": [None, None]}, "as unet"),
        ({"unet": "UNet2DConditionModel"}, "as unet"),
        ({"unet": ["diffusers", ["UNet2DConditionModel"]]}, "as unet"),
    ],
)
def test_no_name_in_an_index_is_imported(model, tmp_path, monkeypatch, entry, message):
    (tmp_path / "poisoned_part.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = model("decoder", index("decoder", **entry))
    for call in (load_decoder, lambda path: check_folder(path, DECODER_CLASS)):
        with pytest.raises(ValueError, match=f"shared-model/model_index.json .*{message}"):
            call(folder)
    assert "poisoned_part" not in sys.modules


@pytest.mark.parametrize(
    "content", [DEEP, '{"_class_name": ' + DEEP, '{"_class_name": ["KandinskyV22Pipeline"]}', "null"]
)
def test_index_that_is_no_index_ends_no_search_for_models(model, content):
    folder = model("decoder", {"model_index.json": content})
    assert pipeline_class(folder) is None
    with pytest.raises(ValueError, match=r"shared-model is not a model in diffusers format: it has no readable"):
        load_decoder(folder)


def test_index_of_many_megabytes_is_not_read(model):
    assert (
        pipeline_class(model("decoder", {"model_index.json": json.dumps(PUBLISHED["decoder"]) + " " * 2**21})) is None
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipe_in_the_place_of_a_file_keeps_nobody_waiting(model):
    folder = model("decoder", removed=("model_index.json", "unet/config.json"))
    os.mkfifo(folder / "model_index.json")
    assert pipeline_class(folder) is None
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps(PUBLISHED["decoder"]))
    os.mkfifo(folder / "unet" / "config.json")
    with pytest.raises(ValueError, match=r"shared-model/unet/config\.json is not a plain file"):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"shared-model/suitable_settings\.json is not JSON in UTF-8"),
        (b"\xff\xfe{\x00}\x00", "is not JSON in UTF-8"),
        (DEEP, "is nested too deeply"),
        ("[1, 2, 3]", "must be an object, {...}; it is a list"),
        ("{}" + " " * 2**17, "has 131074 bytes; a file of this kind has at most 65536"),
        ('{"guidance": [1, 4]}', r"guidance must be three finite numbers, .* got \[1, 4\]; correct or delete the file"),
        ('{"guidance": [1, NaN, 4]}', r"got \[1, NaN, 4\]"),
        ('{"guidance": [1, 2, Infinity]}', "got .*Infinity"),
        ('{"guidance": [1, 2, 1%s]}' % ("0" * 400), "got .*000…"),
        ('{"guidance": [4, 2, 1]}', "three finite numbers"),
        ('{"guidance": ["1", "2", "3"]}', "three finite numbers"),
        ('{"guidance": [false, true, true]}', "three finite numbers"),
        ('{"guidance": 4}', "three finite numbers"),
        ('{"guidance": {"0": 1}}', "three finite numbers"),
    ],
)
def test_broken_settings_are_named_before_anything_is_loaded(model, content, message):
    folder = model("decoder", {"suitable_settings.json": content})
    with pytest.raises(ValueError, match=message):
        suitable_settings(folder)
    with pytest.raises(ValueError, match=message):
        check_folder(folder, DECODER_CLASS)


@pytest.mark.parametrize(
    ("part", "file", "content", "message"),
    [
        ("decoder", "unet/config.json", DEEP, "is nested too deeply"),
        ("decoder", "unet/config.json", "[]", "it is a list"),
        ("decoder", "unet/config.json", "nonsense", "is not JSON"),
        ("decoder", "unet/config.json", {"_class_name": "os"}, "is for a os, not a UNet2DConditionModel"),
        (
            "decoder",
            "scheduler/scheduler_config.json",
            {"_class_name": "subprocess"},
            "is for a subprocess; it must be",
        ),
        (
            "decoder",
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 10**12},
            "must be 2 to 100000; got 1000",
        ),
        ("prior", "image_processor/preprocessor_config.json", DEEP, "is nested too deeply"),
        ("prior", "tokenizer/tokenizer_config.json", DEEP, "is nested too deeply"),
        ("prior", "tokenizer/tokenizer.json", DEEP, "cannot be loaded"),
        ("prior", "tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "sets vocab_file, which HierDiff"),
        ("prior", "tokenizer/tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "sets init_inputs"),
        (
            "prior",
            "text_encoder/adapter_config.json",
            "{}",
            r"contains an adapter \(adapter_config.json\) of another model",
        ),
    ],
)
def test_broken_file_of_a_part_is_named_with_its_folder(model, part, file, content, message):
    with pytest.raises(ValueError, match=f"^shared-model/{file.split('/')[0]}.*{message}"):
        LOADERS[part](model(part, {file: content}))


@pytest.mark.parametrize(
    ("part", "removed", "message"),
    [
        ("decoder", ["unet/config.json"], r"shared-model/unet/config\.json is missing"),
        ("decoder", ["scheduler/scheduler_config.json"], r"shared-model/scheduler/scheduler_config\.json is missing"),
        (
            "prior",
            ["tokenizer/tokenizer.json", "tokenizer/vocab.json"],
            r"shared-model/tokenizer/vocab\.json is missing",
        ),
    ],
)
def test_missing_file_of_a_part_is_named_with_its_folder(model, part, removed, message):
    with pytest.raises(ValueError, match=message):
        LOADERS[part](model(part, removed=removed))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length of the tokenizer is 1000"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 77}, ".* is 77, but the text encoder reads 24 tokens"),
    ],
)
def test_parts_of_a_prior_that_do_not_fit_each_other_are_refused(model, file, changes, message):
    with pytest.raises(ValueError, match=f"shared-model: {message}"):
        load_prior(model("prior", {file: config("prior", file, **changes)}))


def test_config_decides_neither_code_nor_kernels_nor_output(model):
    changes = {
        "auto_map": {"AutoModel": "poisoned--code.Model"},
        "_attn_implementation": "poisoned/kernel",
        "attn_implementation": "poisoned/kernel",
        "fusion_config": {"patch_embeddings": True},
        "return_dict": False,
        "output_attentions": True,
    }
    file = "text_encoder/config.json"
    loaded = load_prior(model("prior", {file: config("prior", file, **changes)})).text_encoder.config
    assert loaded.return_dict
    assert not loaded.output_attentions
    assert "poisoned" not in str(loaded.to_dict()) + str(loaded._attn_implementation)


@pytest.fixture
def model_names(pack, monkeypatch, tmp_path):
    """The loaders' choices among the folders below `tmp_path / "diffusers"`."""
    import folder_paths

    (tmp_path / "diffusers").mkdir()
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / "diffusers")])
    return lambda: pack.nodes.host.models.model_names(DECODER_CLASS)


def test_bad_folders_take_no_node_away_and_hide_no_other_model(pack, model_names, model, tmp_path):
    model("decoder", name="diffusers/good")
    model("decoder", {"model_index.json": DEEP}, name="diffusers/deep")
    model("decoder", {"suitable_settings.json": "{"}, name="diffusers/settings")
    model("decoder", removed=("model_index.json",), name="diffusers/pipe")
    os.mkfifo(tmp_path / "diffusers" / "pipe" / "model_index.json")
    bundled = pack.nodes.host.models.BUNDLED_NAME
    assert model_names() == [bundled, "good", "settings"]
    schema = pack.nodes.DecoderLoader.define_schema()
    assert next(i for i in schema.inputs if i.id == "model").options == [bundled, "good", "settings"]
    answer = pack.nodes.host.models.validate_model("settings", DECODER_CLASS)
    assert answer.startswith("settings/suitable_settings.json is not JSON")
    assert pack.nodes.host.models.validate_model("good", DECODER_CLASS) is True


def test_links_in_circles_end(model_names, model, tmp_path):
    root = tmp_path / "diffusers"
    model("decoder", name="diffusers/shelf/good")
    for name in ("a", "b", "c"):
        (root / "shelf" / name).symlink_to(root)
    (root / "again").symlink_to(root / "shelf")  # another name for a shelf stays: workflows may hold it
    assert model_names()[1:] == ["again/good", "shelf/good"]


def test_search_for_models_ends_in_a_folder_without_end(pack, model_names, model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pack.nodes.host.models, "MOST_FOLDERS", 20)
    model("decoder", name="diffusers/good")
    for i in range(30):
        (tmp_path / "diffusers" / "disk" / str(i)).mkdir(parents=True)
    assert "good" in model_names()
    assert "has looked for models in 20 folders" in caplog.text
