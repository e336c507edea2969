"""A pack of somebody else, for a server: an output of each type that is wired to choices and numbers."""

# What packs with samplers, primitives and seeds do: types that are lists, "COMBO" and "*".
OTHER_PACK = """
import comfy.samplers

class AnyType(str):
    def __ne__(self, other):
        return False

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
TYPES = {
    "Samplers": list(SAMPLERS),
    "SomeSamplers": ["euler", "a sampler of another pack"],
    "NoList": [],
    "Schedulers": list(SCHEDULERS),
    "Metrics": ["chord", "cosine"],
    "Combo": "COMBO",
    "Any": AnyType("*"),
    "Star": "*",
    "Checkpoints": ["a.safetensors"],
    "Int": "INT",
    "Float": "FLOAT",
    "String": "STRING",
}

def of_type(name, kind):
    def give(self, value, number):
        return (number if value == "" else value,)

    inputs = {"required": {"value": ("STRING", {"default": ""}), "number": ("FLOAT", {"default": 0.0})}}
    if kind == "INT":
        inputs["required"]["number"] = ("INT", {"default": 0, "min": -1})
    members = {"INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": (kind,), "FUNCTION": "give"}
    return type(name, (), {**members, "CATEGORY": "test", "give": give})

NODE_CLASS_MAPPINGS = {f"Other{name}": of_type(name, kind) for name, kind in TYPES.items()}
"""


def write_pack(base_dir):
    """Among the custom nodes of a server that is not running yet."""
    folder = base_dir / "custom_nodes" / "other_pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(OTHER_PACK)
