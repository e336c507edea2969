"""Captions as tokens, many at a time: words are looked up, since CLIP's tokenizer reads each word by itself."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context

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


def padded(rows, end, length=TOKENS):
    """(B, length) int16 array of lists of ids; padding is the end, as in Stable Diffusion."""
    found = np.full((len(rows), length), end, dtype=np.int16)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return found


def write_captions(names, folder, scenes, captions, seed):
    """Scenes and captions of each; for a process of its own.

    Returns
    -------
    scenes : (S, 6) uint8 array
    tokens : (S, captions, LONGEST) int16 array
    told : (S, captions, 6) bool array
    """
    reader = Reader(CLIPTokenizer.from_pretrained(folder))
    writer, rng = Writer(names, seed), np.random.default_rng(seed)
    drawn = random_scenes(rng, scenes, trained_pairs(len(names)))
    ids, told = [], []
    for row in drawn.tolist():
        scene = Scene(*row)
        for _ in range(captions):
            text, parts = writer.caption(scene)
            found = reader.ids(text)
            while len(found) > LONGEST:
                text, parts = writer.caption(scene)
                found = reader.ids(text)
            ids.append(found)
            told.append(parts)
    tokens = padded(ids, reader.end, LONGEST).reshape(scenes, captions, LONGEST)
    return drawn.astype(np.uint8), tokens, np.array(told).reshape(scenes, captions, 6)


def write_many(names, folder, scenes, captions, workers, seed):
    """As `write_captions`, by several processes."""
    workers = max(1, min(workers, os.cpu_count() or 1))
    if workers == 1:
        return write_captions(names, folder, scenes, captions, seed)
    parts = 4 * workers
    share = -(-scenes // parts)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = [pool.submit(write_captions, names, folder, share, captions, seed + i) for i in range(parts)]
        return tuple(np.concatenate(found) for found in zip(*(job.result() for job in jobs), strict=True))
