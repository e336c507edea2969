"""Captions as tokens, many at a time: words are looked up, since CLIP's tokenizer reads each word by itself."""

from functools import lru_cache

import numpy as np
from tokens import train_tokenizer
from transformers import CLIPTokenizer

from .captions import Scene, Writer, random_scenes, trained_pairs
from .config import TOKENS, VOCABULARY

LONGEST = 40  # tokens of a caption, begin and end included; longer ones are written again
SAMPLE = 30_000  # captions that the tokenizer learns from


def keep_tokenizer(names, folder):
    """The tokenizer of a folder, trained on captions if there is none."""
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".part")
        folder.parent.mkdir(parents=True, exist_ok=True)
        writer, rng = Writer(names, 0), np.random.default_rng(0)
        scenes = random_scenes(rng, SAMPLE, trained_pairs(len(names)))
        train_tokenizer((writer.caption(Scene(*row))[0] for row in scenes.tolist()), partial, VOCABULARY, TOKENS)
        partial.rename(folder)
    return CLIPTokenizer.from_pretrained(folder)


class Reader:
    """Token ids of captions.

    Parameters
    ----------
    tokenizer : CLIPTokenizer
    """

    def __init__(self, tokenizer):
        self.begin, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.word = lru_cache(100_000)(lambda word: tuple(tokenizer(word, add_special_tokens=False).input_ids))

    def ids(self, text):
        """list of int, with begin and end"""
        return [self.begin, *(i for word in text.split() for i in self.word(word)), self.end]


def write_captions(names, tokenizer, scenes, captions, seed):
    """Random scenes, and captions of each.

    Parameters
    ----------
    names : sequence of str
    tokenizer : CLIPTokenizer
    scenes, captions : int      how many
    seed : int

    Returns
    -------
    scenes : (S, 6) uint8 array
    tokens : (S, captions, LONGEST) int16 array
    told : (S, captions, 6) bool array   which parts a caption tells
    """
    reader, writer = Reader(tokenizer), Writer(names, seed)
    drawn = random_scenes(np.random.default_rng(seed), scenes, trained_pairs(len(names)))
    tokens = np.full((scenes, captions, LONGEST), reader.end, dtype=np.int16)
    told = np.empty((scenes, captions, 6), dtype=bool)
    for i, row in enumerate(drawn.tolist()):
        for j in range(captions):
            ids, told[i, j] = written(writer, reader, Scene(*row))
            tokens[i, j, : len(ids)] = ids
    return drawn.astype(np.uint8), tokens, told


def written(writer, reader, scene):
    """Ids of a caption that is not too long, and which parts it tells."""
    while True:
        text, told = writer.caption(scene)
        ids = reader.ids(text)
        if len(ids) <= LONGEST:
            return ids, told
