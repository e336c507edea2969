"""Load Kandinsky 2.2 pipelines from folders in diffusers layout: offline, safetensors only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..devices import is_out_of_memory
from .model_folder import (
    BUNDLED,
    DECODER_CLASS,
    MOST_CONFIG,
    MOST_VOCABULARY,
    NETWORKS,
    PARTS,
    PRIOR_CLASS,
    check_file,
    check_folder,
    named_classes,
    read_object,
    short,
    title,
    weights_variant,
)
from .weights import COUNTED, check_weights, read_headers, some, weight_files

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior import KandinskyV22PriorPipeline

CONFIGS = {"CLIPTextModelWithProjection": "CLIPTextConfig", "CLIPVisionModelWithProjection": "CLIPVisionConfig"}
# All that describes an encoder: other keys of a config tell transformers what to load, and how.
CLIP_KEYS = (
    *("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("layer_norm_eps", "attention_dropout", "initializer_range", "initializer_factor"),
    *("vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("num_channels", "image_size", "patch_size"),
)
# Files that transformers and diffusers read beside a part's weights.
VOCABULARY = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MOST_TIMESTEPS = 10**5  # of a noise schedule, of which a scheduler makes several tables; Kandinsky 2.2: 1,000


def load_prior(
    folder: str | Path = BUNDLED / "prior", dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> KandinskyV22PriorPipeline:
    """Load a Kandinsky 2.2 prior.

    Parameters
    ----------
    folder : str or Path
        In diffusers layout, with safetensors; the bundled emoji model's by default.
    dtype : torch.dtype, optional
        By default float32 on a CPU and float16 elsewhere.
    device : str or torch.device

    Returns
    -------
    prior : diffusers.KandinskyV22PriorPipeline

    Raises
    ------
    ValueError
        If the folder is missing, holds another model or a broken one, or has no safetensors: told before its weights
        take memory.

    Examples
    --------
    >>> from hierdiff_core import load_prior
    >>> prior = load_prior()
    >>> type(prior).__name__, str(prior.device)
    ('KandinskyV22PriorPipeline', 'cpu')
    """
    prior = _load(folder, PRIOR_CLASS, dtype, device)
    check_prior(prior, title(folder))
    return prior


def load_decoder(
    folder: str | Path = BUNDLED / "decoder", dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> KandinskyV22Pipeline:
    """Load a Kandinsky 2.2 decoder: UNet, MoVQ and scheduler.

    Parameters
    ----------
    folder : str or Path
        In diffusers layout, with safetensors; the bundled emoji model's by default.
    dtype : torch.dtype, optional
        By default float32 on a CPU and float16 elsewhere.
    device : str or torch.device

    Returns
    -------
    decoder : diffusers.KandinskyV22Pipeline

    Raises
    ------
    ValueError
        As in `load_prior`.

    Examples
    --------
    >>> from hierdiff_core import load_decoder
    >>> decoder = load_decoder()
    >>> decoder.unet.config.in_channels, decoder.movq_scale_factor
    (4, 8)
    """
    return _load(folder, DECODER_CLASS, dtype, device)


def check_prior(prior: Any, name: str) -> None:
    """`ValueError` if the parts of a prior do not fit each other: they would fail, or be fed nonsense, when it runs."""
    text, image, config = prior.text_encoder.config, prior.image_encoder.config, prior.prior.config
    widths = {
        "hidden_size of the text encoder": (text.hidden_size, config.embedding_dim),
        "projection_dim of the text encoder": (text.projection_dim, config.embedding_proj_dim or config.embedding_dim),
        "projection_dim of the image encoder": (image.projection_dim, config.embedding_dim),
    }
    for key, (found, width) in widths.items():
        if found != width:
            raise ValueError(f"{name}: {key} is {found}, but the prior needs {width}; use the parts of one model")
    lengths = {
        "model_max_length of the tokenizer": prior.tokenizer.model_max_length,
        "num_embeddings of the prior": config.num_embeddings,
    }
    for key, found in lengths.items():
        if found != text.max_position_embeddings:
            raise ValueError(
                f"{name}: {key} is {found}, but the text encoder reads {text.max_position_embeddings} tokens; "
                "use the parts of one model"
            )
    if len(prior.tokenizer) > text.vocab_size:
        raise ValueError(
            f"{name}: the tokenizer knows {len(prior.tokenizer)} tokens, but the text encoder {text.vocab_size}; "
            "use the parts of one model"
        )


def _load(folder, class_name, dtype, device):
    check_folder(folder, class_name)
    import diffusers  # here, since it takes seconds to import and ComfyUI should start without it

    folder = Path(folder)
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    parts = {}
    for part in PARTS[class_name]:
        try:
            parts[part] = load_part(folder, part, class_name, dtype)
        except Exception as error:  # of three libraries, one of which raises no other kind
            named = with_title(error, folder, part)
            if named is error:
                raise
            raise named from error
    pipeline = getattr(diffusers, class_name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def with_title(error: Exception, folder: Path, part: str) -> Exception:
    """The error to raise for one that came up while a part was loaded: a `ValueError` that names the folder."""
    if is_out_of_memory(error) or (isinstance(error, ValueError) and str(error).startswith(title(folder))):
        return error
    reason = short(str(error).replace(str(folder), title(folder)), 300)  # no paths of this machine
    return ValueError(
        f"{title(folder)}/{part} cannot be loaded ({type(error).__name__}: {reason}); download the folder again"
    )


def load_part(folder: Path, part: str, class_name: str, dtype: torch.dtype) -> Any:
    """A network, scheduler, tokenizer or image processor."""
    library, classes = PARTS[class_name][part]
    if part in NETWORKS[class_name]:
        return load_network(folder, part, library, classes[0], dtype)
    name = classes[0]
    if part == "scheduler":
        check_scheduler_config(folder, read_object(folder, f"{part}/scheduler_config.json", MOST_CONFIG), classes)
        name = named_classes(folder, class_name)[part]
    elif part == "image_processor":
        read_object(folder, f"{part}/preprocessor_config.json", MOST_CONFIG)
    elif part == "tokenizer":
        check_vocabulary(folder, part)
    return library_class(library, name).from_pretrained(str(folder / part), local_files_only=True)


def check_scheduler_config(folder: Path, config: Mapping[str, Any], classes: Sequence[str]) -> None:
    where = f"{title(folder)}/scheduler/scheduler_config.json"
    if config.get("_class_name", classes[0]) not in classes:
        raise ValueError(f"{where} is for a {short(config['_class_name'])}; it must be for {' or '.join(classes[:2])}")
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 2 <= steps <= MOST_TIMESTEPS:
        raise ValueError(
            f"{where}: num_train_timesteps must be 2 to {MOST_TIMESTEPS}; got {short(repr(steps))}; download it again"
        )


def check_vocabulary(folder: Path, part: str) -> None:
    """`ValueError` if a tokenizer's files are no plain ones of a bearable size, or its settings name further files."""
    for name in VOCABULARY:
        if (folder / part / name).exists():
            check_file(folder, f"{part}/{name}", MOST_VOCABULARY)
    if not any((folder / part / name).exists() for name in ("tokenizer.json", "vocab.json")):
        check_file(folder, f"{part}/vocab.json")
    name = f"{part}/tokenizer_config.json"
    settings = read_object(folder, name, MOST_CONFIG) if (folder / name).exists() else {}
    for key in ("vocab_file", "merges_file", "tokenizer_file", "init_inputs"):
        if settings.get(key):  # some versions of transformers open whatever stands there
            raise ValueError(f"{title(folder)}/{name} sets {key}, which HierDiff does not support; delete that line")


def load_network(folder: Path, part: str, library: str, class_name: str, dtype: torch.dtype) -> torch.nn.Module:
    """A network in evaluation mode on the CPU, from weights that are there and fit its config."""
    where = f"{title(folder)}/{part}"
    network_class = library_class(library, class_name)
    config = read_object(folder, f"{part}/config.json", MOST_CONFIG)
    check_config(folder, part, config, class_name)
    variant = weights_variant(folder, part)
    options = {"variant": variant, "use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": True}
    if library == "transformers":
        config = clip_config(CONFIGS[class_name], config)
        options["config"] = config
        build, base = lambda: network_class(config), "model"
    else:
        expected = inspect.signature(network_class.__init__).parameters
        known = {key: value for key, value in config.items() if key in expected}
        build, base = lambda: network_class.from_config(known), "diffusion_pytorch_model"
    files = weight_files(folder, part, base, variant, shards_first=library == "diffusers")
    check_weights(read_headers(files, where), build, where)
    options[dtype_name(library)] = dtype
    network, report = network_class.from_pretrained(str(folder / part), output_loading_info=True, **options)
    check_loaded(network, report, where)
    return network


def check_config(folder: Path, part: str, config: Mapping[str, Any], class_name: str) -> None:
    """`ValueError` if a network's config asks for more than a network of one class."""
    where = f"{title(folder)}/{part}"
    if config.get("_class_name", class_name) != class_name:
        raise ValueError(f"{where}/config.json is for a {short(config['_class_name'])}, not a {class_name}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{where} is quantised; use the files in float32, float16 or bfloat16")
    if (folder / part / "adapter_config.json").exists():
        raise ValueError(f"{where} contains an adapter (adapter_config.json) of another model; use the whole network")


def check_loaded(network: torch.nn.Module, report: Mapping[str, Any], where: str) -> None:
    """`ValueError` if the library that loaded a network left some of it at random or empty.

    Parameters
    ----------
    network : torch.nn.Module
    report : dict
        From `from_pretrained`.
    where : str
        Names the network in messages.
    """
    absent = {name for name in report["missing_keys"] if not name.endswith(COUNTED)}
    absent.update(name for name, value in network.named_parameters() if value.is_meta)
    if absent:
        raise ValueError(f"{where} is missing weights ({some(absent)}); download its .safetensors files again")
    wrong = [*map(str, report["mismatched_keys"]), *report.get("error_msgs", ())]
    if wrong:
        raise ValueError(f"{where}: weights do not fit config.json ({some(wrong)}); download both again")


def clip_config(class_name: str, config: Mapping[str, Any]) -> Any:
    """Config of a transformers encoder, from the keys that describe it: others tell the library what to load."""
    config_class = library_class("transformers", class_name)
    return config_class(**{key: value for key, value in config.items() if key in CLIP_KEYS})


def library_class(library: str, name: str) -> Any:
    """A class of diffusers or transformers; the name is one of ours, never a file's."""
    import diffusers
    import transformers

    return getattr({"diffusers": diffusers, "transformers": transformers}[library], name)


def dtype_name(library: str) -> str:
    """The argument for a network's precision, which newer versions have renamed."""
    import diffusers
    import transformers
    from packaging.version import Version

    module, renamed = {"diffusers": (diffusers, "0.40"), "transformers": (transformers, "4.56")}[library]
    return "dtype" if Version(module.__version__) >= Version(renamed) else "torch_dtype"
