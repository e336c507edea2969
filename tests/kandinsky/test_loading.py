"""Which folders are models, and what is said of those that are not."""

import json

import pytest
import torch

from hierdiff_core.kandinsky.loading import load_decoder, load_prior
from hierdiff_core.kandinsky.model_folder import (
    BUNDLED,
    DECODER_CLASS,
    NETWORKS,
    PRIOR_CLASS,
    check_folder,
    pipeline_class,
    suitable_settings,
)

LOADERS = {PRIOR_CLASS: load_prior, DECODER_CLASS: load_decoder}


def make_folder(path, class_name=DECODER_CLASS, weights="model.safetensors"):
    """A folder with a model_index.json and, for each network, one empty file."""
    path.mkdir()
    (path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    for network in NETWORKS.get(class_name, ()):
        (path / network).mkdir()
        if weights:
            (path / network / weights).touch()
    return path


@pytest.mark.parametrize("class_name", LOADERS)
def test_missing_folder_is_refused_by_name(tmp_path, class_name):
    with pytest.raises(ValueError, match="kandinsky-x is not a model in diffusers format: it has no readable"):
        LOADERS[class_name](tmp_path / "kandinsky-x")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff"])
def test_folder_with_an_unreadable_index_is_refused(tmp_path, content):
    (tmp_path / "model_index.json").write_text(content, encoding="latin-1")
    assert pipeline_class(tmp_path) is None
    with pytest.raises(ValueError, match=r"no readable model_index\.json"):
        check_folder(tmp_path, DECODER_CLASS)


def test_prior_is_no_decoder_and_a_decoder_is_no_prior():
    with pytest.raises(ValueError, match=f"prior holds a {PRIOR_CLASS}, not a {DECODER_CLASS} .* choose another"):
        load_decoder(BUNDLED / "prior")
    with pytest.raises(ValueError, match=f"decoder holds a {DECODER_CLASS}, not a {PRIOR_CLASS}"):
        load_prior(BUNDLED / "decoder")


def test_another_pipeline_is_refused_by_its_name(tmp_path):
    folder = make_folder(tmp_path / "sd", "StableDiffusionPipeline")
    with pytest.raises(ValueError, match="sd holds a StableDiffusionPipeline, not a KandinskyV22Pipeline"):
        load_decoder(folder)


@pytest.mark.parametrize("class_name", LOADERS)
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "model.pt", "model.pth"])
def test_pickles_are_refused_with_the_reason(tmp_path, class_name, name):
    folder = make_folder(tmp_path / "old", class_name, weights=name)
    message = rf"old/{NETWORKS[class_name][0]} has only pickle files \({name}\), which can run code; .* safetensors"
    with pytest.raises(ValueError, match=message):
        LOADERS[class_name](folder)


def test_one_network_as_pickle_among_safetensors_is_refused(tmp_path):
    folder = make_folder(tmp_path / "half")
    (folder / "movq" / "model.safetensors").rename(folder / "movq" / "model.bin")
    with pytest.raises(ValueError, match="half/movq has only pickle files"):
        load_decoder(folder)


def test_network_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty/unet has no weights; HierDiff loads safetensors only"):
        load_decoder(make_folder(tmp_path / "empty", weights=None))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", None),
        ("model.fp16.safetensors", "fp16"),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
    ],
)
@pytest.mark.parametrize("class_name", LOADERS)
def test_variant_is_read_from_the_file_names(tmp_path, class_name, name, variant):
    assert check_folder(make_folder(tmp_path / "model", class_name, weights=name), class_name) == variant


def test_full_precision_is_preferred_where_both_are_there(tmp_path):
    folder = make_folder(tmp_path / "model")
    for network in NETWORKS[DECODER_CLASS]:
        (folder / network / "model.fp16.safetensors").touch()
    assert check_folder(folder, DECODER_CLASS) is None


@pytest.mark.parametrize("half_networks", [("unet", "movq"), ("unet",)])
def test_folder_with_fp16_files_loads_to_the_same_weights(tmp_path, half_networks):
    for path in (BUNDLED / "decoder").rglob("*"):
        target = tmp_path / path.relative_to(BUNDLED / "decoder")
        if target.relative_to(tmp_path).parts[0] in half_networks:
            target = target.with_name(target.name.replace(".safetensors", ".fp16.safetensors"))
        if path.is_file():
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    expected, loaded = load_decoder(), load_decoder(tmp_path)
    for network in ("unet", "movq"):
        weights = getattr(loaded, network).state_dict()
        for name, value in getattr(expected, network).state_dict().items():
            assert torch.equal(weights[name], value)


def test_bundled_model_loads_in_float32_on_a_cpu_and_in_any_precision_asked_for():
    assert load_prior().prior.dtype == torch.float32
    decoder = load_decoder(dtype=torch.bfloat16)
    assert decoder.unet.dtype == decoder.movq.dtype == torch.bfloat16
    assert decoder.unet.device.type == "cpu"


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_bundled_model_names_the_settings_that_suit_it(part):
    settings = suitable_settings(BUNDLED / part)
    assert {"guidance", "steps"} <= set(settings)
    for values in settings.values():
        assert values == sorted(values)


def test_model_without_a_settings_file_has_no_opinion(tmp_path):
    assert suitable_settings(make_folder(tmp_path / "model")) == {}
