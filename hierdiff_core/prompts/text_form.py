"""When two texts are the same: whole characters, one Unicode form, single spaces."""

import re
import unicodedata
from functools import lru_cache

# Unicode's Stream-Safe Text Format. No language needs as many, and putting thousands in order takes forever.
MOST_MARKS = 30
HALVES = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """`text` as every encoding can write it.

    Two halves of a character that stand side by side, as UTF-16 has them, become that character; a half alone
    (from a cut text, or from bytes that are not UTF-8) becomes U+FFFD, the replacement character.
    """
    if not HALVES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def normal_form(text: str) -> str:
    """The form that all spellings of a text have in common: whole characters, Unicode's NFC, white space folded.

    "é" may be one character or an e and an accent, and no reader sees the difference; nor do text encoders.
    """
    return " ".join(composed(text).split())


def composed(text: str) -> str:
    """`text` in whole characters and Unicode's NFC, with its white space."""
    text = whole_characters(text)
    if text.isascii() or _too_many_marks().search(text):
        return text
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=1)
def _too_many_marks():
    """Pattern of more accents and the like, one behind the other, than `MOST_MARKS`."""
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.combining(c))
    return re.compile(f"[{marks}]{{{MOST_MARKS + 1},}}")
