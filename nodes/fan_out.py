"""Lists at the inputs of a node that takes one of them as a whole and runs once for each value of the others."""


def runs(lists, whole=()):
    """The inputs of each run, as the host makes them for a node that takes no lists.

    Parameters
    ----------
    lists : dict          name -> list of values
    whole : set of str    inputs whose list goes into every run

    Returns
    -------
    inputs : list of dict   as many as the longest list has values; of shorter ones the last value is repeated
    """
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} is an empty list; connect a list with at least one value")
    count = max(len(values) for name, values in lists.items() if name not in whole)
    return [
        {name: values if name in whole else values[min(i, len(values) - 1)] for name, values in lists.items()}
        for i in range(count)
    ]
