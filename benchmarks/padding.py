"""What padding to a common length does to a prompt, in models of ComfyUI's own classes with random weights.

For each model: the mean difference between latents of a padded prompt and of the same prompt alone, as a share of the
difference that another prompt of the same length makes. By ComfyUI's KSampler, which hands the padding to the model,
and by KSampler behind Share Steps, which leaves it out.

    python benchmarks/padding.py [--only MODEL ...]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
for folder in ("", "scripts", "tests"):
    sys.path.insert(0, str(ROOT / folder))

TOKENS, PADDED, SEED = 7, (9, 12, 40), 1
WAYS = ("padded with a mask", "padded without a mask", "behind Share Steps")


def entry(tokens, mask, width=24):
    values = {"pooled_output": torch.zeros(len(tokens), width)}
    return [[tokens, values if mask is None else {**values, "attention_mask": mask}]]


class Drawing:
    """Latents of one model for prompts of random tokens."""

    def __init__(self, pack, name):
        import comfy.sample
        import text_models

        self.pack, self.host = pack, comfy.sample
        self.model, self.shape = text_models.text_model(name)
        self.always_masked = name in text_models.ALWAYS_MASKED
        generator = torch.Generator().manual_seed(3)
        self.one, self.other, negative = (
            torch.randn(1, length, text_models.WIDTH, generator=generator) for length in (TOKENS, TOKENS, 5)
        )
        self.negative = entry(negative, self.mask_of(5))

    def mask_of(self, length):
        return torch.ones(1, length, dtype=torch.long) if self.always_masked else None

    def draw(self, positive, model=None):
        latents = torch.zeros(self.shape)
        noise = self.host.prepare_noise(latents, SEED)
        options = {"disable_pbar": True, "seed": SEED}
        steps = 4, 3.0, "euler", "normal"
        return self.host.sample(model or self.model, noise, *steps, positive, self.negative, latents, **options)[:1]

    def padded(self, length, masked):
        tokens = torch.nn.functional.pad(self.one, (0, 0, 0, length - TOKENS))
        mask = torch.nn.functional.pad(torch.ones(1, TOKENS, dtype=torch.long), (0, length - TOKENS))
        return self.draw(entry(tokens, mask if masked else None))

    def shared(self, length):
        """Beside a longer prompt, of which it shares no step."""
        from hierdiff_core import build_plan, linear_thresholds, ward_linkage

        host = self.pack.nodes.host
        longer = torch.randn(1, length, self.one.shape[2], generator=torch.Generator().manual_seed(4))
        prompts = [*entry(self.one, self.mask_of(TOKENS)), *entry(longer, self.mask_of(length))]
        how = host.encode_set.PAD_RIGHT if self.always_masked else host.encode_set.NO_MASK
        both = host.encode_set.merge(prompts, ["one", "longer"], how)
        plan = build_plan(ward_linkage(torch.eye(2)), linear_thresholds(4, 0.0))
        sharing = host.share_steps.Sharing(plan, show_tree=False, tell=lambda _: None)
        return self.draw([both], host.share_steps.share_steps(self.model, sharing))

    def row(self):
        """{way: list of shares, or of the kind of error}."""
        alone = self.draw(entry(self.one, self.mask_of(TOKENS)))
        another = (self.draw(entry(self.other, self.mask_of(TOKENS))) - alone).abs().mean()

        def share(draw, *args):
            try:
                return f"{float((draw(*args) - alone).abs().mean() / another):.1g}"
            except (RuntimeError, TypeError):  # tokens and mask do not fit, or the model needs a mask
                return "error"

        return [
            [share(self.padded, length, True) for length in PADDED],
            [share(self.padded, length, False) for length in PADDED],
            [share(self.shared, length) for length in PADDED],
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from comfyui_host import import_pack

    pack = import_pack(Path(tempfile.mkdtemp()))
    import text_models

    print(f"{TOKENS} tokens padded to {', '.join(map(str, PADDED))}; 1: as much as another prompt\n")
    print("| model |", " | ".join(WAYS), "|\n|---|---|---|---|")
    for name in args.only or sorted(text_models.NETWORKS):
        print(f"| {name} |", " | ".join(", ".join(shares) for shares in Drawing(pack, name).row()), "|", flush=True)


if __name__ == "__main__":
    main()
