"""From text to prompts."""

import pytest

from hierdiff_core.prompts import parse_prompts


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


def test_line_with_too_many_alternatives_is_refused_at_once():
    with pytest.raises(ValueError, match="line 2 gives more than 10000 prompts"):
        parse_prompts("fine\n" + "{a|b}" * 60)
