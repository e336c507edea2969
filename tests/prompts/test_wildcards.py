"""Wildcards, weights and choosing several: counted before they are made, and drawn by a seed."""

import codecs
import itertools
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierdiff_core.prompts import alternatives, wildcards
from hierdiff_core.prompts.alternatives import Sequence, expand, parse_line
from hierdiff_core.prompts.draws import Draw, one_of
from hierdiff_core.prompts.prompt_set import PromptReader, parse_prompts
from hierdiff_core.prompts.rows import PromptRow
from hierdiff_core.prompts.wildcards import Wildcards


@pytest.fixture
def folder(tmp_path):
    """Makes a wildcard folder of {name: text or bytes}."""

    def make(files, place="wildcards"):
        for name, content in files.items():
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / place

    return make


def read(folders, text, draw=None):
    reader = PromptReader(Wildcards(folders), draw)
    reader.add_text(text)
    return reader.prompts


def warnings_of(folders, text, draw=None):
    reader = PromptReader(Wildcards(folders), draw)
    reader.add_text(text)
    return reader.remarks.warnings(reader.prompts)


# --- Choosing and weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("{2$$a|b|c}", ["a, b", "a, c", "b, c"]),
        ("{2$$ and $$a|b|c}", ["a and b", "a and c", "b and c"]),
        ("{1-2$$-$$a|b}", ["a", "b", "a-b"]),
        ("x{0-1$$, $$ a | b }", ["x", "xa", "xb"]),
        ("{-2$$a|b}", ["a", "b", "a, b"]),
        ("{2-$$a|b|c}", ["a, b", "a, c", "b, c", "a, b, c"]),
        ("{2$$|$$a|b}", ["a|b"]),
        ("{2$$a|b} {c|d}", ["a, b c", "a, b d"]),
        ("{2$${a|b}|c|d}", ["a, c", "b, c", "a, d", "b, d", "c, d"]),
        ("{2$${a|b|c}}", ["a, b", "a, c", "b, c"]),
        ("{3::a|b}", ["a", "b"]),
        ("{ 0.5 :: a|.5::b|2.::c}", ["a", "b", "c"]),
        ("{0::a|b|c}", ["b", "c"]),
        ("{2$$3::a|0::b|c}", ["a, c"]),
        ("{[a:b:0.5]|(word:1.2)}, [c|d]", ["[a:b:0.5], [c|d]", "(word:1.2), [c|d]"]),
        (r"{\{2$$a\}|b}", ["{2$$a}", "b"]),
        (r"\__a__", ["__a__"]),
    ],
)
def test_several_are_chosen_in_the_written_order_and_weights_leave_the_text(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ok\n{-1::a|b}", r"line 2: -1:: is no weight: write a number of 0 or more, such as \{2::red"),
        ("{1,5::a|b}", "line 1: 1,5:: is no weight"),
        ("{a|1.2.3::b}", r"line 1: 1.2.3:: is no weight"),
        ("{0::a|0::b}", r"line 1: all alternatives of \{0::a\|0::b\} have the weight 0"),
        ("{3-1$$a|b}", r"line 1: \{3-1\$\$ cannot choose: write .* the smaller number first"),
        ("{0$$a|b}", r"line 1: \{0\$\$ cannot choose"),
        ("{101$$a|b}", r"line 1: \{101\$\$ cannot choose: .* at most 100"),
        ("{50$$" + "|".join(map(str, range(100))) + "}", "line 1: more than 10000 prompts in a set"),
        ("{2$$" + "|".join(["a" * 15_000] * 3) + "}", "line 1: a prompt of more than 20000 characters"),
    ],
)
def test_what_makes_no_sense_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_prompts(text)


def test_what_means_less_than_it_may_seem_is_said():
    assert warnings_of([], "{2::a|b}, {3$$c|d}, {1::e|1::f}")[:2] == [
        "prompt 0 (line 1) has {2::a|b}: weights count only for random draws; here each alternative comes once",
        "prompt 0 (line 1) has {3$$c|d}: it has fewer alternatives than it chooses, so all are taken",
    ]
    assert warnings_of([], "{2::a|b}", Draw(2, 0)) == []


GROUPS = st.recursive(
    st.sampled_from(["a", "bc", "2::d", "0::e", " f "]),
    lambda inner: st.builds(
        lambda header, parts: "{" + header + "|".join(parts) + "}",
        st.sampled_from(["", "2$$", "1-2$$ & $$", "0-3$$", "1-$$"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(GROUPS)
def test_count_is_that_of_the_prompts_and_none_is_longer_than_was_said(line):
    try:
        sequence, _ = parse_line(line)
    except ValueError:
        return
    texts = [text for text, _ in expand(sequence)]
    assert len(texts) == sequence.count
    assert sum(map(len, texts)) <= sequence.characters
    assert max(map(len, texts)) <= sequence.longest


def test_factors_are_the_outer_groups_and_what_stands_in_their_place():
    reader = PromptReader()
    reader.add_text("a {red|{dark |}blue} {1$$x|y}, {only}\nplain")
    assert reader.rows[1].factors == (("red|{dark |}blue", "red"), ("1$$x|y", "y"))
    assert [row.factors[0][1] for row in reader.rows[:-1:2]] == ["red", "dark blue", "blue"]
    assert reader.rows[-1] == PromptRow("plain")


def test_rows_of_a_line_get_what_belongs_to_its_prompt():
    reader = PromptReader()
    reader.add_line("# {a|b}", "row 3", PromptRow("", negative="blurry", seed=7, caption="c"))
    assert reader.rows[1] == PromptRow("# b", "blurry", 7, "c", (("a|b", "b"),))
    with pytest.raises(ValueError, match=r"row 4: '\{' is not closed"):
        reader.add_line("{a", "row 4", PromptRow(""))


# --- Draws ------------------------------------------------------------------------------------------------------------


def test_same_seed_draws_the_same_and_more_of_them_begin_alike():
    text = "{a|b|c|d} {1|2|3|4} {2$$x|y|z}\n{a|b|c|d}\n{a|b|c|d}\nplain"
    first, again, more, other = (read([], text, Draw(*each)) for each in ((3, 5), (3, 5), (4, 5), (3, 6)))
    assert first == again != other
    assert more[:3] == first[:3]
    assert first[3:6] != first[6:9]  # equal lines draw each for itself
    assert len(set(first[:3])) == 3
    assert first.count("plain") == 1
    assert read([], "q\n" + text, Draw(3, 5))[1:] == first  # other lines change nothing


def test_drawn_prompts_are_among_the_combinations_and_know_no_factors():
    text = "{a|{b|c}} {1-2$$x|y|z}"
    allowed = set(parse_prompts(text))
    reader = PromptReader(draw=Draw(40, 1))
    reader.add_text(text)
    assert set(reader.prompts) == allowed
    assert len(reader.prompts) == len(allowed) == 18
    assert {row.factors for row in reader.rows} == {()}


def test_weights_are_how_often_an_alternative_is_drawn():
    group = parse_line("{3::a|b|0::c}")[0]
    drawn = [one_of(group, random.Random(i)) for i in range(4000)]
    assert drawn.count("c") == 0
    assert 0.72 < drawn.count("a") / 4000 < 0.78


def test_several_are_drawn_without_putting_back():
    group = parse_line("{2$$1000000::a|b|c}")[0]
    drawn = [one_of(group, random.Random(i)) for i in range(200)]
    assert set(drawn) == {"a, b", "a, c"}


def test_line_with_fewer_prompts_than_are_wanted_says_so():
    reader = PromptReader(draw=Draw(5, 0))
    reader.add_text("{a|b}\n{1|2|3|4|5|6|7}")
    assert sorted(reader.prompts[:2]) == ["a", "b"]
    assert len(reader.prompts) == 7
    assert reader.remarks.notes() == ["line 1 gives only 2 different prompts"]


def test_draws_are_limited_by_their_number_and_not_by_the_combinations(folder):
    place = folder({"n.txt": "\n".join(map(str, range(3000)))})
    assert len(read([place], "__n__ __n__ __n__ {a|b}" + "{c|d}" * 60, Draw(10, 0))) == 10
    with pytest.raises(
        ValueError, match=r"line 1: more than 10000 prompts in a set; .*\. The line gives 12000 of them"
    ):
        read([place], "__n__ {a|b|c|d}")
    with pytest.raises(ValueError, match=r"line 1: more than 10000 prompts in a set; .*\. The line gives countless"):
        read([place], "__n__ " * 9)
    with pytest.raises(ValueError, match=r"draw some of them at random$"):
        read([place], "__n__ {a|b|c|d} {0::b}")
    with pytest.raises(ValueError, match="line 2: more than 10000 prompts"):
        PromptReader(draw=Draw(6000, 0)).count_text("{a|b}" * 20 + "\n" + "{c|d}" * 20)


# --- Wildcards --------------------------------------------------------------------------------------------------------


def test_wildcard_stands_for_the_values_of_its_file(folder):
    place = folder({"colour.txt": "# comment\nred\n\n 2::dark {blue|green} \n", "deep/er/style.txt": "ink\nwash"})
    assert read([place], "a __colour__ hat, {__deep/er/style__|oil}") == [
        f"a {colour} hat, {style}" for colour in ("red", "dark blue", "dark green") for style in ("ink", "wash", "oil")
    ]
    assert read([place], "__Style__ __COLOUR__")[0] == "ink red"  # in whatever folder, and in whatever case
    assert read([place], "{2$$__colour__}") == ["red, dark blue", "red, dark green"]
    assert read([place], "__deep\\er\\style__") == ["ink", "wash"]


def test_wildcards_in_wildcards(folder):
    place = folder({"a.txt": "x\n__b__ and __c__", "b.txt": "1\n2", "c.txt": "{3|4}"})
    assert read([place], "__a__") == ["x", "1 and 3", "1 and 4", "2 and 3", "2 and 4"]
    place = folder({"b.txt": "1\nthe __c__", "c.txt": "__a__"})
    with pytest.raises(
        ValueError, match=r"line 1: __a__ .*must not lead back to itself: __a__ → __b__ → __c__ → __a__"
    ):
        read([place], "__a__")


def test_globs_take_the_values_of_all_files_that_fit(folder):
    place = folder({"colours/a.txt": "red", "colours/b.txt": "blue", "colours/dark/c.txt": "black", "x.txt": "no"})
    assert read([place], "__colours/*__") == ["red", "blue"]
    assert read([place], "__colours/**__") == ["red", "blue", "black"]
    assert read([place], "__*/b__") == ["blue"]
    assert read([place], "__x*__") == ["no"]
    assert read([place], "__colours*__") == ["__colours*__"]  # * is no /
    assert read([place], "__dark/*__") == ["black"]


YAML = """\
artists:
  finnish: [Akseli, 'Eero {a|b}']
  dutch:
    - 3::Piet
    - {text: Rembrandt, weight: 2}
    - 17
  none:
  flurp: 12345
one: alone
"""


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_lists_in_yaml_lie_below_their_keys(folder, ending):
    place = folder({f"art.{ending}": YAML, f"more/art.{ending}": "pets: [cat, dog]"})
    assert read([place], "__artists/finnish__") == ["Akseli", "Eero a", "Eero b"]
    assert read([place], "__artists/dutch__") == ["Piet", "Rembrandt", "17"]
    assert len(read([place], "__artists/*__")) == 6
    assert read([place], "__one__ __more/pets__ __pets__") == [
        f"alone {a} {b}" for a in ("cat", "dog") for b in ("cat", "dog")
    ]


def test_lists_in_json_and_a_list_alone(folder):
    place = folder({"a.json": '{"b": {"c": ["1", "2"]}}', "pets.json": '["cat", "dog"]', "list.yaml": "- x\n- y"})
    assert read([place], "__b/c__ __pets__")[0] == "1 cat"
    assert read([place], "__list__") == ["x", "y"]


def test_first_folder_counts_and_missing_folders_are_passed_over(folder, tmp_path):
    mine, theirs = folder({"a.txt": "mine"}, "mine"), folder({"a.txt": "theirs", "b.txt": "more"}, "theirs")
    assert read([tmp_path / "none", mine, theirs], "__a__ __b__") == ["mine more"]


def test_missing_wildcard_is_named_and_used_as_written(folder):
    place = folder({"animals.txt": "cat", "x/y.txt": "z __gone__"})
    assert warnings_of([place], "ok\na __animal__ and __b__ __animal__") == [
        "prompt 1 (line 2) has __animal__, __b__: there is no wildcard file of this name; it is used as written. "
        "Did you mean __animals__?"
    ]
    assert read([place], "a __animal__") == ["a __animal__"]
    assert warnings_of([place], "__y__") == [
        "__y__ (y.txt, line 1) has __gone__: there is no such wildcard; it is used as written"
    ]
    assert warnings_of([place], "__~animals(a=b)__")[0].startswith(
        "prompt 0 (line 1) has __~animals(a=b)__: there is no"
    )
    assert read([place], "__~animals__") == ["cat"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": ""}, r"line 2: the wildcard __a__ is empty: write a value per line into a\.txt"),
        ({"a.txt": "# only\n\n"}, "line 2: the wildcard __a__ is empty"),
        ({"a.txt": "ok\n{x"}, r"line 2: __a__ \(a\.txt, line 2\): '\{' is not closed"),
        ({"a.txt": "-1::x"}, r"line 2: __a__ \(a\.txt, line 1\): -1:: is no weight"),
        ({"a.txt": "0::x"}, r"line 2: the wildcard __a__ is empty"),
        ({"a.txt": "x" * 20_001}, r"line 2: __a__ \(a\.txt, line 1\): a prompt of more than 20000 characters"),
        ({"a.txt": codecs.BOM_UTF16_LE + b"\x00\xd8"}, r"the wildcard file a\.txt is damaged; save it as UTF-8"),
        ({"a.txt": "__a__"}, "must not lead back to itself: __a__ → __a__"),
    ],
)
def test_file_that_cannot_be_used_is_named(folder, files, message):
    with pytest.raises(ValueError, match=message):
        read([folder(files)], "fine\nthe __a__")


@pytest.mark.parametrize(
    ("content", "encoding", "remarks"),
    [
        ("Jürg\n虎".encode(), "", []),
        ("Jürg\n虎".encode("utf-8-sig"), "", []),
        ("Jürg\n虎".encode("utf-16"), "", []),
        ("Jürg\n虎".encode("utf-32"), "", []),
        ("Jürg\nx".encode("cp1252"), "x", ["a.txt is not UTF-8 and was read as Windows-1252: save it as UTF-8"]),
    ],
)
def test_encodings(folder, content, encoding, remarks):
    place = folder({"a.txt": content})
    assert read([place], "__a__") == ["Jürg", encoding or "虎"]
    assert warnings_of([place], "__a__") == remarks


def test_files_are_bounded(folder, monkeypatch):
    place = folder({"a.txt": "x\n" * 50, "b.yaml": "&x [1, 2, 3]", "c.json": "[" * 100_000})
    monkeypatch.setattr(wildcards, "MOST_BYTES", 60)
    with pytest.raises(ValueError, match=r"the wildcard file a\.txt has more than 60 bytes; split it"):
        read([place], "__a__")
    monkeypatch.setattr(wildcards, "MOST_BYTES", 1000)
    monkeypatch.setattr(wildcards, "MOST_VALUES", 40)
    with pytest.raises(ValueError, match="__a__ has more than 40 values"):
        read([place], "__a__", Draw(1, 0))
    monkeypatch.setattr(wildcards, "MOST_FILES", 2)
    with pytest.raises(ValueError, match="more than 2 wildcard files"):
        read([place], "__a__")


def test_table_that_cannot_be_read_is_told_and_passed_over(folder):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh")
    )
    place = folder(
        {"bad.yaml": "a: [", "deep.json": "[" * 100_000, "bomb.yaml": bomb, "tag.yaml": "!!python/object:os.x {}"}
    )
    folder({"fine.json": '{"ok": ["x"]}'})
    found = warnings_of([place], "__ok__ __a__")
    assert read([place], "__ok__") == ["x"]
    told = "\n".join(found)
    for name in ("bad.yaml", "deep.json", "tag.yaml"):
        assert f"the wildcard file {name} cannot be read" in told


@pytest.mark.parametrize(
    "name", ["../secret", "..\\secret", "/etc/passwd", "../../**/secret", "a/../../secret", "link/secret", "linked"]
)
def test_no_name_leads_out_of_the_folders(folder, tmp_path, name):
    place = folder({"a/x.txt": "x"})
    outside = folder({"secret.txt": "secret"}, "outside")
    os.symlink(outside, place / "link")
    os.symlink(outside / "secret.txt", place / "linked.txt")
    assert read([place], f"__{name}__") == [f"__{name}__"]


def test_stamp_changes_with_the_files(folder):
    place = folder({"a.txt": "x"})
    before = Wildcards([place]).stamp()
    assert Wildcards([place]).stamp() == before
    folder({"b.yaml": "c: [d]"})
    assert Wildcards([place]).stamp() != before


def test_large_wildcards_are_read_in_no_time(folder):
    place = folder({"tags.txt": "\n".join(f"tag {i}" for i in range(90_000))})
    assert len(read([place], "__tags__, __tags__, {3$$__tags__}", Draw(50, 3))) == 50


def test_hostile_lines_are_read_in_no_time():
    sequence, _ = parse_line("{a|b}" * 15_000, limited=False)
    assert sequence.count == alternatives.ENOUGH
    assert isinstance(sequence, Sequence)
    assert parse_prompts("__" * 9_000 + "a" * 900)
    assert parse_prompts("__a " * 4_000) == [("__a " * 4_000).strip()]
