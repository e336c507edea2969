"""Captions as tokens: a byte-level tokenizer in CLIP's format, and all captions of a set of pictures."""

import json
from dataclasses import dataclass

import torch
from config import TOKENS, VOCABULARY
from emoji import captions
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def train_tokenizer(texts, folder, vocabulary=VOCABULARY, length=TOKENS):
    """Learn byte pairs and keep them as a `CLIPTokenizer`.

    Every byte is in the vocabulary, so that any prompt can be read. Begin and end have the highest ids: CLIP's text
    encoder takes the end for the highest one. Padding is the end too.

    Parameters
    ----------
    texts : iterable of str
    folder : Path            receives vocab.json, merges.txt and tokenizer.json
    vocabulary : int         tokens at most
    length : int             tokens that the text encoder reads

    Returns
    -------
    tokenizer : CLIPTokenizer
    """
    empty = CLIPTokenizer(vocab={END: 0, BEGIN: 1}, merges=[]).backend_tokenizer  # its normaliser and word splitting
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, end_of_word_suffix=WORD_END, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    tokens, merges = vocabulary_of(learned, vocabulary)
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=ids, merges=merges, pad_token=END, model_max_length=length)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def keep_tokenizer(texts, folder):
    """The tokenizer of a folder, trained if there is none; another training may number the tokens in another way."""
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".part")
        train_tokenizer(texts, partial)
        partial.rename(folder)
    return CLIPTokenizer.from_pretrained(folder)


def vocabulary_of(merges, most):
    """Tokens in the order of their ids, and the merges that fit into `most` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(letter + WORD_END for letter in alphabet)])
    kept = []
    for first, second in merges:
        if len(tokens) == most - 2:
            break
        tokens[first + second] = None
        kept.append((first, second))
    return [*tokens, BEGIN, END], kept


@dataclass(frozen=True)
class Captions:
    """All captions of the pictures, tokenised once; P pictures with C captions each, U different captions.

    Attributes
    ----------
    tokens : (U, TOKENS) int64 tensor    row 0 is the empty caption
    mask : (U, TOKENS) bool tensor       False at the padding
    rows : (P, C) int64 tensor           rows of `tokens`; column 0 is the canonical caption
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor

    def draw(self, pictures, canonical, generator):
        """(B,) rows of a caption for each picture; with probability `canonical` the canonical one."""
        count, device = len(pictures), pictures.device
        column = torch.randint(self.rows.shape[1], (count,), generator=generator, device=device)
        is_canonical = torch.rand(count, generator=generator, device=device) < canonical
        return self.rows[pictures, column.masked_fill(is_canonical, 0)]


def caption_texts(emoji):
    """Captions of every picture, N x 5 pictures in order: list of lists of str."""
    names, styles = emoji.pictures.shape[:2]
    return [captions(emoji, i, style) for i in range(names) for style in range(styles)]


def tokenise(texts, tokenizer, device):
    """`Captions` of lists of texts, as `KandinskyV22PriorPipeline` tokenises prompts."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(["", *(text for row in texts for text in row)]))}
    encoded = tokenizer(
        list(distinct), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).to(device)
    rows = torch.tensor([[distinct[text] for text in row] for row in texts], device=device)
    return Captions(encoded.input_ids, encoded.attention_mask.bool(), rows)
