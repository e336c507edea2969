"""Nodes that take a set's pictures as one batch, or as other packs give them: as a list of single ones."""


def runs_of(inputs, count, sources):
    """What a node with list inputs has to do, one after the other.

    Batches (or single pictures) in a list are one source, unless each is a source by itself: as many as there are
    prompts, or with a set of prompts for each. Then, and for lists of other things, there is a run for each item, with
    the last one of shorter lists again, as the host maps a node over lists.

    Parameters
    ----------
    inputs : dict of name -> list, or None where nothing is connected; with a list of one or more sets `prompts`
    count : callable      how many pictures an item of a source has
    sources : names of the inputs that bring pictures

    Returns
    -------
    runs : list of dict   name -> value, of a source a list; None where nothing is connected

    Raises
    ------
    ValueError  if a list is empty.
    """
    given = {name: values for name, values in inputs.items() if values is not None}
    for name, values in given.items():
        if len(values) == 0:
            raise ValueError(f"{name} got an empty list; connect a node that gives something")
    prompts = given["prompts"]
    for name in sources:
        if name in given:
            items = given[name]
            sizes, wanted = [count(item) for item in items], len(prompts[0])
            each_is_a_set = len(prompts) > 1 or (wanted in sizes and sum(sizes) != wanted)
            given[name] = [[item] for item in items] if each_is_a_set else [items]
    most = max(map(len, given.values()))
    return [
        {name: given[name][min(i, len(given[name]) - 1)] if name in given else None for name in inputs}
        for i in range(most)
    ]


def batches(images):
    """(B, H, W, C) batches of a list of IMAGE; some packs give single pictures without B, or lists within the list."""
    found = []
    for image in images:
        if isinstance(image, (list, tuple)):
            found += batches(image)
        else:
            found.append(image[None] if image.ndim == 3 else image)
    return found
