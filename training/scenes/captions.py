"""English captions of scenes: what a scene consists of, and the many ways to say it, or a part of it."""

import random
import re
from dataclasses import dataclass

import numpy as np
from emoji import STYLE_WORDS, STYLES

LEFT, ABOVE, FRONT = range(3)
EQUAL, SMALLER, LARGER = range(3)  # the first object next to the second
COLOURS = ("white", "red", "orange", "yellow", "green", "blue", "purple", "grey")
RELATIONS = ("left of", "above", "in front of")
SIZES = ("equal", "smaller", "larger")
# what a scene consists of, in the order of `Scene`; the judge names each
PARTS = ("style", "first", "second", "relation", "size", "colour")
HELD_OUT = 0.04

OTHER_COLOURS = {"purple": ("purple", "violet"), "grey": ("grey", "gray")}
SMALL, LARGE = ("small", "little", "tiny"), ("big", "large", "huge")
# relation -> words with the first object named first, and with the second named first
WORDS = {
    LEFT: (
        ("to the left of", "left of", "on the left of", "to the left of"),
        ("to the right of", "right of", "on the right of", "to the right of"),
    ),
    ABOVE: (("above", "over", "on top of", "above"), ("below", "under", "beneath", "underneath")),
    FRONT: (("in front of", "in front of", "before"), ("behind", "behind", "in the back of")),
}
PLACES = {
    LEFT: (("on the left", "on the right"), ("left", "right")),
    ABOVE: (("at the top", "at the bottom"), ("on top", "at the bottom")),
    FRONT: (("in front", "in the back"),),
}


@dataclass(frozen=True)
class Scene:
    """Two different emoji on a coloured ground; all are indices.

    Attributes
    ----------
    style : int               of `emoji.STYLES`, both emoji's
    first, second : int       emoji
    relation : int            LEFT: first left of second; ABOVE; FRONT: a small first before a large second
    size : int                EQUAL, SMALLER or LARGER: the first, next to the second
    colour : int              of `COLOURS`
    """

    style: int
    first: int
    second: int
    relation: int
    size: int
    colour: int


def held_out_pairs(count, share=HELD_OUT):
    """(count, count) bool array, symmetric: pairs of emoji that training never shows together."""
    drawn = np.random.default_rng(19).random((count, count))
    return np.triu(drawn, 1) + np.triu(drawn, 1).T + np.eye(count) < share


def random_scenes(rng, count, pairs):
    """(count, 6) int64 array of scenes with pairs of emoji where `pairs` is True; columns as `PARTS`.

    Parameters
    ----------
    rng : numpy.random.Generator
    count : int
    pairs : (N, N) bool array
    """
    allowed = np.argwhere(pairs)
    first, second = allowed[rng.integers(len(allowed), size=count)].T
    relation = rng.choice(3, count, p=(0.4, 0.4, 0.2))
    size = np.where(relation == FRONT, SMALLER, rng.choice(3, count, p=(0.5, 0.25, 0.25)))
    columns = (rng.integers(len(STYLES), size=count), first, second, relation, size, rng.integers(8, size=count))
    return np.stack(columns, axis=1)


def trained_pairs(count):
    """(count, count) bool array: pairs of different emoji that training shows."""
    return ~held_out_pairs(count) & ~np.eye(count, dtype=bool)


def with_article(words):
    """`a cat`, `an orange`, `peanuts`."""
    if re.search("[^su]s$", words):
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def canonical(scene, names):
    """The plain caption of a scene that tells all of it."""
    first, second = (with_article(words) for words in sized(scene, names, "small", "big"))
    style, colour = STYLES[scene.style], COLOURS[scene.colour]
    between = ("to the left of", "above", "in front of")[scene.relation]
    return f"{first} {between} {second}, {style} style, on {with_article(colour)} background"


def sized(scene, names, small, large):
    """Both names, with words for their sizes where these differ and the relation does not say it."""
    first, second = names[scene.first], names[scene.second]
    if scene.size == EQUAL or scene.relation == FRONT:
        return first, second
    words = (small, large) if scene.size == SMALLER else (large, small)
    return f"{words[0]} {first}", f"{words[1]} {second}"


class Writer:
    """Writes captions.

    Parameters
    ----------
    names : sequence of str
    seed : int
    """

    def __init__(self, names, seed):
        self.names = names
        self.random = random.Random(seed)

    def caption(self, scene):
        """A caption, and which parts of the scene it tells, as `PARTS` has them."""
        chosen = self.random.random()
        if chosen < 0.15:
            return canonical(scene, self.names), (True,) * 6
        told = (True,) * 6 if chosen < 0.65 else self.some()
        return self.joined(scene, told), told

    def some(self):
        """Parts to tell: objects with or without their relation, or one, or none; style and colour or not."""
        toss = self.random.random
        kind = toss()
        both, related = kind < 0.5, kind < 0.35
        first = both or kind < 0.7
        second = both or 0.7 <= kind < 0.9
        return (toss() < 0.45, first, second, related, related, toss() < 0.45)

    def joined(self, scene, told):
        """The told parts, in one of many orders."""
        style = self.style(scene.style) if told[0] else ""
        colour = self.colour(scene.colour) if told[5] else ""
        objects = self.objects(scene, told)
        if not objects:
            return self.listed([style and f"{style} style", colour and f"{colour} background"])
        way = self.random.random()
        if style and way < 0.25:
            noun = self.random.choice(("style picture of", "picture of", "drawing of", "style drawing of"))
            objects, style = f"{with_article(f'{style} {noun}')} {objects}", ""
        elif style and way < 0.35:
            objects, style = f"{objects} in {style} style", ""
        if colour and way < 0.15:
            return self.listed([f"on {colour}: {objects}", style and f"{style} style"])
        if colour and way > 0.6:
            ground = self.random.choice(("on a {} background", "on {}", "on a {} ground", "with a {} background"))
            ground = ground.format(colour).replace("a orange", "an orange")
            objects, colour = f"{objects} {ground}", ""
        return self.listed([objects, style and self.ending(style), colour and f"{colour} background"], shuffle=True)

    def ending(self, style):
        return style if self.random.random() < 0.3 else f"{style} style"

    def listed(self, parts, shuffle=False):
        parts = [part for part in parts if part]
        if shuffle and self.random.random() < 0.4:
            self.random.shuffle(parts)
        return ", ".join(parts)

    def style(self, style):
        if self.random.random() < 0.7:
            return STYLES[style]
        return self.random.choice(STYLE_WORDS[STYLES[style]])

    def colour(self, colour):
        name = COLOURS[colour]
        return self.random.choice(OTHER_COLOURS.get(name, (name,)))

    def articled(self, words):
        return with_article(words) if self.random.random() < 0.8 else words

    def objects(self, scene, told):
        """The told objects, related or not."""
        if not (told[1] or told[2]):
            return ""
        if told[1] != told[2]:
            return self.articled(self.names[scene.first if told[1] else scene.second])
        if not told[3]:
            pair = [self.articled(self.names[scene.first]), self.articled(self.names[scene.second])]
            self.random.shuffle(pair)
            return self.random.choice((" and ", " and ", ", ", " with ")).join(pair)
        return self.related(scene)

    def related(self, scene):
        """Both objects with their relation, from one side or the other."""
        choice = self.random.choice
        named = [self.articled(words) for words in self.with_sizes(scene)]
        way = self.random.random()
        if way < 0.2:
            places = choice(PLACES[scene.relation])
            order = choice(((0, 1), (1, 0)))
            if self.random.random() < 0.5:
                return ", ".join(f"{named[i]} {places[i]}" for i in order)
            return ", ".join(f"{places[i]} {named[i]}" for i in order)
        swapped = self.random.random() < 0.4
        one, other = reversed(named) if swapped else named
        if way < 0.4:  # the relation of the one named last
            words = choice(WORDS[scene.relation][not swapped])
            return f"{one}, {words} it {other}"
        words = choice(WORDS[scene.relation][swapped])
        return f"{one} {words} {other}"

    def with_sizes(self, scene):
        """Names with words for their sizes: both, or one alone."""
        first, second = sized(scene, self.names, self.random.choice(SMALL), self.random.choice(LARGE))
        if scene.size != EQUAL and self.random.random() < 0.4:
            if self.random.random() < 0.5:
                first = self.names[scene.first]
            else:
                second = self.names[scene.second]
        return first, second
