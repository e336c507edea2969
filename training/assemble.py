"""Put the trained networks together: a prior and a decoder that diffusers' Kandinsky 2.2 pipelines load.

python training/assemble.py [--out RUN]
"""

import json
import shutil

import torch
from clip_pair import FOLDER as PAIR
from config import SUITABLE_DECODER, SUITABLE_PRIOR
from diffusers import DDPMScheduler, KandinskyV22Pipeline, PriorTransformer, UNet2DConditionModel, VQModel
from movq import FOLDER as AUTOENCODER
from prior import FOLDER as PRIOR
from prior import make_pipeline
from stage import ROOT, hide_progress_bars, parse_options
from unet import FOLDER as UNET

FOLDER = "model"
LICENCES = ("LICENSES.md", "LICENSE-APACHE-2.0.txt")  # of the pictures; they travel with the weights
BUNDLED = ROOT / "models" / "emoji-kandinsky"
OF_THIS_MACHINE = ("_name_or_path", "is_local", "local_files_only")  # what the libraries note in their configurations


def assemble(out):
    """Write `out`/model/prior and `out`/model/decoder, float16; returns the folder.

    Parameters
    ----------
    out : path   the run, with all stages finished
    """
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    prior = make_pipeline(out / PAIR, PriorTransformer.from_pretrained(out / PRIOR / "model"))
    decoder = KandinskyV22Pipeline(
        unet=UNet2DConditionModel.from_pretrained(out / UNET / "model"),
        scheduler=DDPMScheduler.from_pretrained(out / UNET / "scheduler"),
        movq=VQModel.from_pretrained(out / AUTOENCODER / "model"),
    )
    for name, pipeline, settings in (("prior", prior, SUITABLE_PRIOR), ("decoder", decoder, SUITABLE_DECODER)):
        for network in pipeline.components.values():
            if isinstance(network, torch.nn.Module):
                network.half()
        pipeline.save_pretrained(folder / name)
        (folder / name / "suitable_settings.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):  # for older versions of transformers, which do without tokenizer.json
        shutil.copy(out / PAIR / "tokenizer" / name, folder / "prior" / "tokenizer" / name)
    for name in LICENCES:
        shutil.copy(BUNDLED / name, folder / name)
    for path in folder.rglob("*config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in settings.items() if name not in OF_THIS_MACHINE}
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return folder


def weights_size(folder):
    """Bytes of all weights below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def main():
    hide_progress_bars()
    folder = assemble(parse_options(__doc__.splitlines()[0]).out)
    print(f"{folder}: {weights_size(folder) / 2**20:.1f} MiB of weights")


if __name__ == "__main__":
    main()
