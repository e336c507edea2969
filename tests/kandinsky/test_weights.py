"""Weights that do not fit their network are refused with the folder's name, before memory is taken."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hierdiff_core.kandinsky.loading import load_decoder, load_prior
from hierdiff_core.kandinsky.model_folder import BUNDLED

LOADERS = {"prior": load_prior, "decoder": load_decoder}
TEXT = "text_encoder/model.safetensors"
PRIOR = "prior/diffusion_pytorch_model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
MOVQ = "movq/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tmp_path):
    """Makes a copy of a part of the bundled model; ``change(folder)`` then spoils it."""

    def make(part, change):
        folder = tmp_path / "shared-model"
        shutil.copytree(BUNDLED / part, folder)
        change(folder)
        return folder

    return make


def weights(file, change):
    def apply(folder):
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return apply


def configured(file, **changes):
    def apply(folder):
        found = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**found, **changes}))

    return apply


def without(name, add=None):
    def change(tensors):
        taken = tensors.pop(name)
        if add:
            tensors[add] = torch.zeros(taken.numel() + 1000)

    return change


def as_type(dtype):
    return lambda tensors: tensors.update({name: value.to(dtype) for name, value in tensors.items()})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "prior",
            weights(TEXT, without("text_projection.weight")),
            r"text_encoder is missing weights \(text_projection.weight",
        ),
        ("prior", weights(TEXT, without("text_projection.weight", "other")), "text_encoder is missing weights"),
        ("prior", weights(PRIOR, without("clip_mean")), r"prior is missing weights \(clip_mean\)"),
        ("decoder", weights(UNET, without("conv_in.weight")), r"unet is missing weights \(conv_in.weight\)"),
        ("decoder", weights(MOVQ, without("quantize.embedding.weight", "other")), "movq .*quantize.embedding.weight"),
        ("prior", weights(TEXT, as_type(torch.int8)), "text_encoder contains weights of type I8 .* are not quantised"),
        ("decoder", weights(UNET, as_type(torch.uint8)), "unet contains weights of type U8"),
        (
            "decoder",
            weights(UNET, lambda w: w.update({"conv_in.bias": torch.zeros(7)})),
            r"unet: conv_in.bias has shape \(7,",
        ),
        (
            "prior",
            configured("prior/config.json", num_layers=1),
            r"prior/config.json describes a smaller network .*left out",
        ),
        (
            "prior",
            configured("text_encoder/config.json", quantization_config={"load_in_8bit": True}),
            "text_encoder is quantised",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(model, part, change, message):
    with pytest.raises(ValueError, match=f"^shared-model/{message}"):
        LOADERS[part](model(part, change))


@pytest.mark.parametrize(
    ("part", "file", "changes"),
    [
        ("prior", "text_encoder/config.json", {"num_hidden_layers": 10**9}),
        ("prior", "text_encoder/config.json", {"vocab_size": 10**10}),
        ("prior", "text_encoder/config.json", {"hidden_size": 10**6}),
        ("prior", "text_encoder/config.json", {"max_position_embeddings": 10**10}),
        ("prior", "image_encoder/config.json", {"image_size": 10**8}),
        ("prior", "prior/config.json", {"num_layers": 10**9}),
        ("prior", "prior/config.json", {"additional_embeddings": 10**6}),  # a mask of their square, kept by no file
        ("decoder", "unet/config.json", {"block_out_channels": [96_000, 160_000]}),
        ("decoder", "unet/config.json", {"layers_per_block": 10**9}),
        ("decoder", "unet/config.json", {"num_class_embeds": 10**10}),
        ("decoder", "movq/config.json", {"num_vq_embeddings": 10**10}),
    ],
)
def test_absurd_networks_are_refused_before_they_take_memory(model, monkeypatch, part, file, changes):
    import diffusers
    import transformers

    for mixin in (diffusers.ModelMixin, transformers.PreTrainedModel):
        monkeypatch.setattr(mixin, "from_pretrained", loads_only(mixin.from_pretrained, file.split("/")[0]))
    with pytest.raises(ValueError, match=f"^shared-model/{file} describes a network far larger than its weights"):
        LOADERS[part](model(part, configured(file, **changes)))


def loads_only(from_pretrained, refused):
    """`from_pretrained` that fails the test for one network."""

    def load(cls, path, **options):
        assert not path.endswith(refused), "memory would have been taken"
        return from_pretrained.__func__(cls, path, **options)

    return classmethod(load)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -128}, "negative dimension"),
        ({"hidden_size": "128"}, ""),
        ({"hidden_size": 10**30}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"hidden_act": "none of ours"}, ""),
    ],
)
def test_networks_that_cannot_be_made_are_named(model, changes, message):
    with pytest.raises(ValueError, match=f"^shared-model/text_encoder.*{message}"):
        load_prior(model("prior", configured("text_encoder/config.json", **changes)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:5000], "[Ii]nvalid"),
        (lambda data: data[:-1], ""),
        (lambda data: b"", ""),
        (lambda data: b"<html>Not found</html>", ""),
        (lambda data: (2**40).to_bytes(8, "little") + data[8:], ""),
    ],
    ids=["half", "a byte short", "empty", "a web page", "endless header"],
)
def test_broken_file_of_weights_is_named(model, spoil, message):
    folder = model("decoder", lambda path: (path / UNET).write_bytes(spoil((path / UNET).read_bytes())))
    with pytest.raises(
        ValueError, match=rf"shared-model/unet/diffusion_pytorch_model\.safetensors is broken .*{message}"
    ):
        load_decoder(folder)


def sharded(network, base, elsewhere=None):
    """Weights in two files and an index of them; `elsewhere` replaces the name of one file."""

    def apply(folder):
        path = folder / network / f"{base}.safetensors"
        tensors = load_file(path)
        names = sorted(tensors)
        files = [f"{base}-0000{i}-of-00002.safetensors" for i in (1, 2)]
        place = {name: files[i % 2] for i, name in enumerate(names)}
        for file in files:
            part = {name: tensors[name] for name in names if place[name] == file}
            save_file(part, folder / network / file, metadata={"format": "pt"})
        if elsewhere:
            place[names[0]] = elsewhere
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": place})
        (folder / network / f"{base}.safetensors.index.json").write_text(text)
        path.unlink()

    return apply


@pytest.mark.parametrize(
    ("network", "base"), [("text_encoder", "model"), ("prior", "diffusion_pytorch_model")], ids=["CLIP", "prior"]
)
def test_weights_in_several_files_load_to_the_same_network(model, network, base):
    loaded, expected = (
        getattr(load_prior(*folder), network) for folder in ([model("prior", sharded(network, base))], [])
    )
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    "name", ["../unet/model.safetensors", "/etc/passwd", "C:model.safetensors", "model.bin", "..\\a.safetensors", 7]
)
@pytest.mark.parametrize(("network", "base"), [("text_encoder", "model"), ("prior", "diffusion_pytorch_model")])
def test_index_of_weights_leads_out_of_no_folder(model, network, base, name):
    folder = model("prior", sharded(network, base, name))
    with pytest.raises(
        ValueError, match=rf"shared-model/{network}/{base}\.safetensors\.index\.json names .*only \.safetensors"
    ):
        load_prior(folder)


def add_position_ids(tensors):
    tensors["text_model.embeddings.position_ids"] = torch.arange(24)[None]


@pytest.mark.parametrize(
    "change",
    [
        weights(TEXT, add_position_ids),  # saved by older versions of transformers
        weights(TEXT, as_type(torch.float64)),
        weights(TEXT, as_type(torch.bfloat16)),
        weights(TEXT, lambda tensors: tensors.update({"vision_model.other.weight": torch.zeros(10**6)})),
    ],
    ids=["position ids", "float64", "bfloat16", "with another network"],
)
def test_what_loads_without_harm_still_loads(model, change):
    loaded = load_prior(model("prior", change)).text_encoder
    assert loaded.dtype == torch.float32
    expected = load_prior().text_encoder
    torch.testing.assert_close(loaded.text_projection.weight, expected.text_projection.weight, rtol=1e-2, atol=1e-2)
