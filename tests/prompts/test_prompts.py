"""From text to prompts."""

import first_parser
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hierdiff_core.prompts import alternatives
from hierdiff_core.prompts import prompt_set as prompts
from hierdiff_core.prompts.prompt_set import PromptReader, check_prompts, flat_texts, parse_prompts


def read(*texts, verbatim=(), lines="keep"):
    """Prompts, notes and warnings of texts, and of texts that are taken as they are."""
    reader = PromptReader()
    for text in texts:
        reader.add_text(text)
    for i, text in enumerate(verbatim):
        reader.add_verbatim(text, f"prompts[{i}]", lines)
    return reader.prompts, reader.remarks.notes(), reader.remarks.warnings(reader.prompts)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a cat\na dog", ["a cat", "a dog"]),
        ("  a   cat \t sits ", ["a cat sits"]),
        ("\n\na cat\n   \n", ["a cat"]),
        ("a cat\r\na dog\r\n", ["a cat", "a dog"]),
        ("", []),
        ("虎, noto style", ["虎, noto style"]),
        ("same\nsame", ["same", "same"]),
    ],
)
def test_each_line_is_a_prompt(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("# a comment\na cat", ["a cat"]),
        ("   # indented\na cat", ["a cat"]),
        ("# {broken", []),
        ("a cat # 7", ["a cat # 7"]),
        (r"\#1 fan", ["#1 fan"]),
    ],
)
def test_lines_that_begin_with_a_hash_are_comments(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a {red|blue} car", ["a red car", "a blue car"]),
        ("{a|b} {1|2|3}", ["a 1", "a 2", "a 3", "b 1", "b 2", "b 3"]),
        ("{cat}", ["cat"]),
        ("a {big |}cat", ["a big cat", "a cat"]),
        ("a {|big} cat", ["a cat", "a big cat"]),
        ("{a|a}", ["a", "a"]),
        ("x{}y", ["xy"]),
        ("{|cat}", ["cat"]),
        ("a | b", ["a | b"]),
        ("{a|b}\n{c|d}", ["a", "b", "c", "d"]),
    ],
)
def test_braces_stand_for_each_alternative(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("{a|b{1|2}}", ["a", "b1", "b2"]),
        ("{{a|b}|c}", ["a", "b", "c"]),
        ("{a {x|y}|b} {1|2}", ["a x 1", "a x 2", "a y 1", "a y 2", "b 1", "b 2"]),
        ("{{{deep}}}", ["deep"]),
    ],
)
def test_groups_may_be_nested(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        (r"a \{literal\} brace", ["a {literal} brace"]),
        (r"{a\|b|c}", ["a|b", "c"]),
        (r"{a\}|b}", ["a}", "b"]),
        (r"C:\path", [r"C:\path"]),
    ],
)
def test_escaped_characters_stand_for_themselves(text, prompts):
    assert parse_prompts(text) == prompts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fine\n\n# comment\na {b", r"line 4: '\{' is not closed; write \\\{"),
        ("{a|{b}", r"line 1: '\{' is not closed"),
        ("fine\na } b", r"line 2: '\}' without '\{' before it; write \\\}"),
        ("{a}}", r"line 1: '\}' without '\{' before it"),
        ("}{", r"line 1: '\}' without '\{' before it"),
    ],
)
def test_error_names_the_line_with_the_unpaired_brace(text, message):
    with pytest.raises(ValueError, match=message):
        parse_prompts(text)


# --- The first version's prompts --------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["a", "b c", " ", "{", "}", "|", "{a|b}", "{", "|", "}", "\\", "#", "[", "]", "\n", "\r\n", "\f", "虎"]
)


def outcome(parse, text):
    """The prompts, or why there are none."""
    try:
        return parse(text)
    except ValueError as error:
        return str(error)


@given(st.lists(PIECES, max_size=30).map("".join))
@example("{a|b{1|2}}\n{{a|b}|c} {{x}} \\{ \\\\} # {")
@example("{ |a}{|b|}\n\\#x\n {} \n{|}")
def test_texts_give_the_prompts_of_the_first_version_in_its_order(text):
    assert outcome(parse_prompts, text) == outcome(first_parser.parse_prompts, text)


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_made(monkeypatch):
    monkeypatch.setattr(prompts, "expand", lambda sequence: pytest.fail("prompts were made"))


LIMITS = {
    "one line": ("fine\n" + "{a|b}" * 60, "line 2: more than 10000 prompts in a set"),
    "nested": ("{a|{b|" * 45 + "c" + "}}" * 45 + "{a|b}" * 60, "line 1: more than 10000 prompts in a set"),
    "large text, many combinations": ("x" * 19_000 + "{a|b}" * 13, "line 1: more than 4000000 characters"),
    "long prompt": ("x" * 20_001, "line 1: a prompt of more than 20000 characters"),
    "long group": ("{" + "x" * 20_001 + "|a}", "line 1: a prompt of more than 20000 characters"),
    "lines together": ("{a|b|c}{1|2}\n" * 2000, "line 1667: more than 10000 prompts in a set"),
    "a megabyte of combinations": (("{a|b}" * 13 + "\n") * 15_000, "line 2: more than 10000 prompts in a set"),
    "a megabyte of empty ones": (("{|}" * 13 + "\n") * 25_000, "line 2: more than 10000 prompts in a set"),
    "characters together": (("x" * 19_000 + "{a|b|c}\n") * 100, "line 71: more than 4000000 characters"),
    "depth": ("{" * 3000, "line 1: braces are nested more than 100 deep"),
    "closed depth": ("{" * 3000 + "a" + "}" * 3000, "line 1: braces are nested more than 100 deep"),
    "braces": ("{}" * 100_001, "line 1: more than 100000 braces"),
    "bars": ("{" + "|" * 1_000_000 + "}", "line 1: more than 10000 prompts in a set"),
    "size": ("#" * 4_000_001, "the text has 4000001 characters; at most 4000000"),
}


@pytest.mark.parametrize(("text", "message"), LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("read", [PromptReader.add_text, PromptReader.count_text])
def test_text_beyond_a_limit_is_refused_before_a_prompt_is_made(nothing_made, read, text, message):
    with pytest.raises(ValueError, match=message):
        read(PromptReader(), text)


def test_limits_are_those_of_the_set_and_not_of_each_text(monkeypatch):
    monkeypatch.setattr(alternatives, "MOST_PROMPTS", 5)
    reader = PromptReader()
    reader.add_text("{a|b}", "text[0]")
    reader.add_argument("{c|d}", "argument 1")
    with pytest.raises(ValueError, match=r"text\[1\], line 2: more than 5 prompts in a set"):
        reader.add_text("# c\n{e|f}", "text[1]")
    reader = PromptReader()
    reader.add_text("{a|b}")
    with pytest.raises(ValueError, match=r"prompts\[0\]: more than 5 prompts in a set"):
        reader.add_verbatim("c\nd\ne\nf", "prompts[0]", lines="split")


def test_as_many_as_the_limit_are_made():
    assert len(parse_prompts("{a|b|c|d|e|f|g|h|i|j}" * 4)) == 10_000
    assert len(parse_prompts("a\n" * 10_000)) == 10_000
    assert parse_prompts("{" * 100 + "a" + "}" * 100) == ["a"]
    assert len(parse_prompts("{a|" * 99 + "b" + "}" * 99)) == 100


def test_comments_of_a_megabyte_are_no_matter():
    assert parse_prompts("/*\n" * 300_000 + "*/\na" + "\n# b" * 100_000) == ["a"]
    assert len(parse_prompts("/*\n" * 9999 + "*/ x")) == 10_000


# --- Comments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("// a comment\na cat\n  //b", ["a cat"]),
        ("/* a comment */\na cat", ["a cat"]),
        ("/* a\n {comment\n*/\na cat", ["a cat"]),
        ("\ufeff# a comment\n\ufeffa cat", ["a cat"]),
        ("see http://x.org/a", ["see http://x.org/a"]),
        ("and // or", ["and // or"]),
        ("/* no */ a cat", ["/* no */ a cat"]),
        ("/* never closed\na cat", ["/* never closed", "a cat"]),
        ("/* no\nend */ a cat", ["/* no", "end */ a cat"]),
        ("/*/\na cat", ["/*/", "a cat"]),
        ("\\// a\n\\/* b */\nc \\// d", ["// a", "/* b */", "c \\// d"]),
    ],
)
def test_comments_are_whole_lines(text, prompts):
    assert parse_prompts(text) == prompts


def test_skipped_lines_are_counted_and_inner_comment_marks_warned_of():
    prompts, notes, warnings = read("a\n# b\n\n// c\n/* d\n*/\ne // f\n/* g */ h\nhttp://x")
    assert prompts == ["a", "e // f", "/* g */ h", "http://x"]
    assert notes == ["4 comment lines skipped: 2, 4, 5 and 1 more"]
    assert warnings == ["prompt 1 has //: only whole lines can be comments; it is used as written (1 more like it)"]
    assert read("a\nb") == (["a", "b"], [], [])


def test_nothing_in_an_argument_is_a_comment():
    reader = PromptReader()
    for i, argument in enumerate(["#1 fan", "// {a|b}", "a\n# b\n\nc", " "]):
        reader.add_argument(argument, f"argument {i}")
    assert reader.prompts == ["#1 fan", "// a", "// b", "a", "# b", "c"]
    assert reader.remarks.notes() == ["argument 2 has 3 lines: one prompt each"]
    found = "\n".join(reader.remarks.warnings(reader.prompts))
    assert "argument 3 is empty and was left out" in found
    assert "argument 2 has # b: arguments have no comments" in found


# --- Syntax that means nothing here -----------------------------------------------------------------------------------

FOREIGN = {
    "wildcard file": (
        "a __animal__",
        ["a __animal__"],
        "prompt 0 (line 1) has __animal__: there is no wildcard file of this name; it is used as written",
    ),
    "nested wildcard": ("{__a/b*__|c}", ["__a/b*__", "c"], "prompt 0 (line 1) has __a/b*__: there is no wildcard"),
    "choose how many": ("{$$a|b}", ["$$a", "b"], "prompt 0 has $$: only a number at the start of braces chooses"),
    "choose without braces": ("2$$a, b", ["2$$a, b"], "prompt 0 has 2$$: only a number at the start of braces"),
    "weights": ("a:1::2, 2::b", ["a:1::2, 2::b"], "prompt 0 has 1::: only alternatives in braces have weights"),
    "lora": ("cat <lora:x:0.8>", ["cat <lora:x:0.8>"], "prompt 0 has <lora:x:0.8>: it loads nothing"),
    "single": (
        "{a} cat",
        ["a cat"],
        "prompt 0 (line 1) has {a}: a single alternative is no choice, so its braces",
    ),
    "empty": ("x{}y", ["xy"], "prompt 0 (line 1) has {}: a single alternative"),
    "commas": ("a {red, blue} cat", ["a red, blue cat"], "has {red, blue}: a single alternative"),
    "brackets": (
        "{blonde|[black|gray]}",
        ["blonde", "[black", "gray]"],
        "prompt 0 (line 1) has {blonde|[black|gray]}: [ and ] do not group inside braces",
    ),
    "alternating": ("[a|b] cat", ["[a|b] cat"], "prompt 0 has [a|b]: words in [ ] do not alternate"),
    "editing": ("[a:b:0.5] [c:5]", ["[a:b:0.5] [c:5]"], "prompt 0 has [a:b:0.5]: no prompt can change during a run"),
    "bar": (
        "city|night",
        ["city|night"],
        "prompt 0 (line 1) has city|night: | separates alternatives only inside braces",
    ),
    "variable": ("${x=a}", ["$x=a"], "prompt 0 (line 1) has ${x=a}: variables are not supported"),
    "JSON": ('{"prompt": "cat"}', ['"prompt": "cat"'], 'has {"prompt": "cat"}: it looks like JSON'),
    "list": ("['a', 'b']", ["['a', 'b']"], "prompt 0 has ['a', 'b']: it looks like a list, but is a single text"),
}


@pytest.mark.parametrize(("text", "expected", "warning"), FOREIGN.values(), ids=FOREIGN)
def test_syntax_of_other_programs_is_warned_of_and_gives_what_it_gave(text, expected, warning):
    prompts, _, warnings = read(text)
    assert prompts == expected == first_parser.parse_prompts(text)
    assert any(warning in line for line in warnings), warnings


@pytest.mark.parametrize(
    "text",
    [
        "a {red|green} apple, (shiny:1.2)",
        "snake_case, file__name, 10:30, 3:1",
        r"\{a\} literally, [a], [[b]]",
        "C:\\dir, $5, #7, a::b, 50 %, <3, [12:30 o'clock]",
        "http://x.org",
    ],
)
def test_plain_prompts_are_not_warned_of(text):
    assert read(text)[2] == []


def test_what_is_not_read_in_texts_as_they_are_is_warned_of():
    _, _, warnings = read(verbatim=["{a|b}", "# c", '{"a": 1}', "fine {x}"])
    assert warnings == [
        "prompt 0 has {a|b}: alternatives are not expanded in linked texts, tables and JSON; it is used as written",
        "prompt 1 has # c: comments are not recognised in linked texts, tables and JSON; it is used as written",
        'prompt 2 has {"a": 1}: it may be JSON; it is used as written',
    ]


def test_list_of_texts_is_warned_of_once():
    (warning,) = read('["a", "b"]')[2]
    assert "it looks like a list, but is a single text; it is used as written" in warning


def test_text_that_is_json_says_so_when_its_braces_are_refused():
    with pytest.raises(ValueError, match=r"line 2: '\{' is not closed.*The text looks like JSON"):
        parse_prompts('[\n{\n"prompt": "a"}, {"prompt": "b"}]')


# --- Equal prompts, lines, items --------------------------------------------------------------------------------------


def test_equal_prompts_are_counted():
    _, _, warnings = read("a\nb\na\ncaf\u00e9", verbatim=["cafe\u0301", "b\n b"])
    assert warnings[1:] == ["2 of 6 prompts are equal to an earlier one: 2 to 0, 4 to 3"]
    assert read("{a|a|a|a|a|a}")[2] == ["5 of 6 prompts are equal to an earlier one: 1 to 0, 2 to 0, 3 to 0 and 2 more"]


def test_text_with_several_lines_stays_one_prompt_and_is_hinted_at_or_is_split():
    texts = [" a\r\n\n b \n", "c", "d\u2028e\nf"]
    prompts, _, warnings = read(verbatim=texts)
    assert prompts == ["a\r\n\n b", "c", "d\u2028e\nf"]
    assert warnings == ["prompt 0 has 2 lines: set linked_lines to split to make each line a prompt (1 more like it)"]
    assert read(verbatim=texts, lines="split") == (["a", "b", "c", "d", "e", "f"], [], [])


def test_empty_items_are_left_out_and_counted():
    prompts, _, warnings = read(verbatim=["", "a", None, " \ufeff", "\ufeffb"])
    assert prompts == ["a", "b"]
    assert warnings == ["prompts[0], prompts[2], prompts[3] are empty and were left out"]


def test_endless_text_is_refused_before_it_is_read():
    with pytest.raises(ValueError, match=r"prompts\[0\]: a text of 5000000 characters; at most 4000000 are allowed"):
        read(verbatim=["a" * 5_000_000])


def test_nested_lists_are_flattened_in_order():
    found = list(flat_texts(["a", ["b", ("c", None)], []], "prompts"))
    assert found == [("prompts[0]", "a"), ("prompts[1][0]", "b"), ("prompts[1][1][0]", "c"), ("prompts[1][1][1]", None)]


def endless():
    items = []
    items += [items, items]
    return items


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a", 7], r"prompts\[1\] must be text; got int 7\. Connect an output of text"),
        (["a", ["b", 0.5]], r"prompts\[1\]\[1\] must be text; got float 0.5"),
        ([True], r"prompts\[0\] must be text; got bool True"),
        ([{"samples": 1}], r"prompts\[0\] must be text; got dict"),
        ([b"a"], r"prompts\[0\] must be text; got bytes"),
        ([10**100], r"prompts\[0\] must be text; got int"),
        ([endless()], "prompts contains too many or too deeply nested lists"),
        ([[[] for _ in range(1000)] for _ in range(1000)], "prompts contains too many or too deeply nested lists"),
    ],
)
def test_items_that_are_no_texts_are_refused_by_index(items, message):
    with pytest.raises(ValueError, match=message):
        list(flat_texts(items, "prompts"))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts"),
        (["a", " "], "prompt 1 must not be empty; got ' '"),
        (["a", 3], "prompt 1 must be text; got int 3"),
        ([None], "prompt 0 must be text; got NoneType"),
        (["\n" * 9999], "prompt 0 must not be empty; got '.{80}'$"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused_by_index(prompts, message):
    with pytest.raises(ValueError, match=message):
        check_prompts(prompts)


# --- Characters -------------------------------------------------------------------------------------------------------


def test_halves_of_characters_are_joined_or_replaced_and_said():
    prompts, _, warnings = read("cat \ud83d\ude00\ndog \ud83d", verbatim=["\ude00 bird"])
    assert prompts == ["cat \U0001f600", "dog \ufffd", "\ufffd bird"]
    assert warnings == ["the text, prompts[0] have a broken character, replaced by \ufffd"]
    assert check_prompts(["dog \ud83d"]) == ("dog \ufffd",)


@given(st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)))
def test_prompts_can_always_be_encoded(text):
    for prompt in parse_prompts(text):
        prompt.encode()


def test_private_characters_stay_what_they_are():
    text = "\ue000 {\ue001|\ue002} \ue003 \\{"
    assert parse_prompts(text) == ["\ue000 \ue001 \ue003 {", "\ue000 \ue002 \ue003 {"]
