"""Tables of prompts: every form that is read, what is wrong told with row and value, pictures and limits."""

import copy
import pickle

import pytest

from hierdiff_core.prompts.alternatives import LONGEST_PROMPT, MOST_CHARACTERS, MOST_PROMPTS
from hierdiff_core.prompts.cells import Cells
from hierdiff_core.prompts.files import add_file
from hierdiff_core.prompts.prompt_set import PromptReader
from hierdiff_core.prompts.rows import PromptRow, PromptRows, as_rows, own_negatives, own_seeds, with_texts
from hierdiff_core.prompts.table import add_cells, file_cells, read_cells, table_text

HEADER = "on\tprompt\tnegative\tseed\tpictures\tcaption\n"


def read(text):
    """The rows of a table, its problems, and the notes on it."""
    reader = PromptReader()
    problems = add_cells(reader, read_cells(text))
    return reader.rows, [tuple(problem) for problem in problems], reader.remarks.notes()


def row(text, negative=None, seed=None, caption=None):
    return PromptRow(text, negative, seed, caption)


FORMS = {
    "the page's": HEADER + "\ta cat\tdark\t7\t\tohwx\nno\ta bird\t\t\t\t\n\ta dog\t\t\t\t",
    "commas": 'prompt,seed,negative,caption\n"a cat",7,dark,ohwx\n"a dog",,,\n',
    "semicolons": "caption;text;negative_prompt;seed\r\nohwx;a cat;dark;7\r\n;a dog;;-1\r\n",
    "a list": '[{"prompt": "a cat", "seed": 7, "negative": "dark", "caption": "ohwx"}, '
    '{"prompt": "b", "on": false}, "a dog"]',
    "lines of objects": '{"text": "a cat", "seed": "7", "negative prompt": "dark", "caption": "ohwx"}\n'
    '{"prompt": "a dog"}',
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_rows(text):
    assert read(text)[:2] == ([row("a cat", "dark", 7, "ohwx"), row("a dog")], [])
    cells = read_cells(text)
    assert read_cells(table_text(cells)) == cells


def test_lines_without_a_header_are_prompts():
    rows, problems, _ = read("a cat, text, city\n\n# a comment\n{red|green} apple\n")
    assert [each.text for each in rows] == ["a cat, text, city", "red apple", "green apple"]
    assert problems == []
    assert read("") == read("\n# nothing\n") == read(HEADER) == ([], [], [])
    assert read("prompt\na cat\n")[0] == [row("a cat")]
    assert read("[red|blue] cat")[0] == [row("[red|blue] cat")]


def test_white_space_and_line_breaks_in_cells_are_folded():
    assert read(HEADER + '\t" a\n  cat"\t" very\tdark "\t 7 \t 1 \t" o\nx"')[0] == [row("a cat", "very dark", 7, "o x")]


def test_pictures_follow_each_other_with_seeds_that_count_up():
    rows, _, notes = read("prompt,seed,pictures\n{a|b},7,2\nc,,3\nd,18446744073709551615,2\n")
    assert [(each.text, each.seed) for each in rows] == [
        *(("a", 7), ("a", 8), ("b", 7), ("b", 8)),
        *(("c", None), ("c", 1), ("c", 2)),
        *(("d", 2**64 - 1), ("d", 0)),
    ]
    assert notes == [
        "row 2: 3 pictures without a seed: the first has the sampler's, the others seeds 1 to 2; write a seed to "
        "choose them"
    ]


WRONG = {
    "7.5": (
        "seed",
        "row 2: seed must be a whole number from 0 to 2**64 - 1; got '7.5'; leave it empty for the sampler's",
    ),
    "1e5": ("seed", "got '1e5'"),
    "18446744073709551616": ("seed", "got '18446744073709551616'"),
    "٣": ("seed", "got '٣'"),
    "-2": ("seed", "got '-2'"),
    "9" * 5000: ("seed", "got '99999"),
    "1\t0": ("pictures", "row 2: pictures must be a whole number from 1 to 10000; got '0'"),
    "1\tmany": ("pictures", "got 'many'"),
    "1\t10001": ("pictures", "got '10001'"),
    "1\t1\t" + "x" * (LONGEST_PROMPT + 1): ("caption", "the caption has 20001 characters; at most 20000 are allowed"),
}


@pytest.mark.parametrize("cells", WRONG, ids=[key[:12] for key in WRONG])
def test_a_cell_that_cannot_be_read_is_told_with_its_row_and_value(cells):
    """The other rows are read all the same, so that a page can count them."""
    column, message = WRONG[cells]
    rows, problems, _ = read(HEADER + f"\ta cat\t\t\t\t\n\ta dog\t\t{cells}\n\ta fish\t\t\t\t")
    assert [each.text for each in rows] == ["a cat", "a fish"]
    assert [problem[:2] for problem in problems] == [(1, column)]
    assert message in problems[0][2]


def test_rows_that_are_off_or_blank_are_not_looked_at():
    rows, problems, _ = read(HEADER + "0\ta\t\tx\t\t\n\t\t\t\t\t\nOFF\t{b\t\t\t\t\nyes\tc\t\t\t\t\n\t\tdark\t\t\t")
    assert rows == [row("c")]
    assert problems == [(4, "prompt", "row 5: the prompt is empty; write one, or switch the row off")]


def test_a_brace_that_is_not_closed_and_too_many_prompts_name_the_row():
    _, problems, _ = read(HEADER + "\t{a\t\t\t\t\n\tb\t\t\t10000\t\n\tc\t\t\t\t")
    assert problems[0][:2] == (0, "prompt")
    assert problems[0][2].startswith("row 1: '{' is not closed")
    assert problems[1][2].startswith("row 3: more than 10000 prompts in a set")
    _, problems, _ = read(HEADER + "\ta\t\t\t\t\n\t{b|c}\t\t\t5000\t")
    assert problems[0][2].startswith("row 2: more than 10000 prompts")


def test_tables_are_bounded():
    with pytest.raises(ValueError, match="the table has 10001 rows; at most 10000 are allowed"):
        read_cells("a\n" * (MOST_PROMPTS + 1))
    with pytest.raises(ValueError, match="the table has 4000001 characters"):
        read_cells("a" * (MOST_CHARACTERS + 1))
    with pytest.raises(ValueError, match="more than 4000000 characters of prompts"):
        read(HEADER + f"\t{'a' * 1000}\t\t\t4001\t")
    many = read(HEADER + "\tx\t\ty\t\t\n" * 500)[1]
    assert len(many) == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt\tseed\na\t7\tb", "the table, line 2: 3 columns, but the first line names 2"),
        ('prompt,seed\n"a,7', "the table, line 2: unexpected end of data; check the quotes"),
        ('[{"prompt": "a"', "the table, line 1: not JSON"),
        ('[{"prompt": 3}]', "the table, item 0: must be text, or an object with text in prompt, text or caption"),
        ('[{"prompt": "a", "negative": 3}]', "the table, item 0: negative must be text; got int 3"),
    ],
)
def test_what_is_no_table_is_refused(text, message):
    with pytest.raises(ValueError, match="the table") as refused:
        read_cells(text)
    assert message in str(refused.value)


def test_files_are_rows_of_their_kind():
    assert file_cells("a.txt", b"# no\n{a|b}, c\n") == [Cells(prompt="{a|b}, c")]
    utf16 = "prompt;seed\na cat;7\n".encode("utf-16")
    assert file_cells("a.CSV", utf16) == [Cells(prompt="a cat", seed="7")]
    assert file_cells("a.jsonl", b'{"caption": "a", "images": 2}') == [Cells(prompt="a", pictures="2")]
    with pytest.raises(ValueError, match=r"a\.csv, line 1: the first line of a table must name its columns"):
        file_cells("a.csv", b"a cat\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 1: the byte 0xff is not UTF-8"):
        file_cells("a.txt", b"\xff")


def test_command_line_files_have_what_is_each_prompts_own(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("prompt,negative,seed,pictures,caption\n{a|b},dark,7,2,ohwx\nc,,,,\n", encoding="utf-8")
    reader = PromptReader()
    add_file(reader, path)
    assert reader.rows == [row("{a|b}", "dark", 7, "ohwx"), row("{a|b}", "dark", 8, "ohwx"), row("c")]
    path.write_text("prompt,seed\na,7\nb,7.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.csv, line 3: seed must be a whole number .* got '7\.0'"):
        add_file(PromptReader(), path)


def test_rows_are_texts_to_everybody_else_and_survive_copies():
    rows = PromptRows([row("a", "dark", 7), row("b")])
    assert rows == ("a", "b")
    assert list(rows) == ["a", "b"]
    for same in (copy.copy(rows), copy.deepcopy(rows), pickle.loads(pickle.dumps(rows)), as_rows(rows)):
        assert same.rows == rows.rows
    assert as_rows(("a", "b")).rows == (row("a"), row("b"))
    assert own_seeds(rows) == (7, None)
    assert own_seeds(("a", "b")) is None
    assert own_negatives(rows, "rain") == ["dark", "rain"]
    assert own_negatives(rows, ["x", "y"]) == ["dark", "y"]
    assert own_negatives(("a", "b"), "rain") == "rain"
    assert with_texts(rows, ["c", "d"]).rows == (row("c", "dark", 7), row("d"))
    assert with_texts(("a", "b"), ["c", "d"]) == ("c", "d")
