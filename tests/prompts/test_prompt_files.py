"""Prompts from files of all kinds: read, or refused with file, line and remedy."""

import json
import os

import pytest

from hierdiff_core.prompts import files as prompt_files
from hierdiff_core.prompts.files import add_file
from hierdiff_core.prompts.prompt_set import PromptReader

LINES = "# fruit\n{red|green} apple\n\ncafé, 虎\n"
PROMPTS = ["red apple", "green apple", "café, 虎"]


@pytest.fixture
def read(tmp_path):
    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        reader = PromptReader()
        add_file(reader, path)
        return reader.prompts

    return read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x85", "\f"])
def test_text_file_in_any_unicode_encoding_and_with_any_line_end(read, encoding, end):
    assert read("a.txt", LINES.replace("\n", end).encode(encoding)) == PROMPTS


def test_big_endian_utf_16_and_files_that_were_joined(read):
    assert read("a.txt", b"\xfe\xff" + LINES.encode("utf-16-be")) == PROMPTS
    assert read("b", "\ufeffcat\n\ufeff# dog\n\ufeffbird".encode()) == ["cat", "bird"]


TABLES = {
    "quotes": ("a.csv", 'id,Prompt\n1,"a cat, {x|y}"\n2,a dog\n', ["a cat, {x|y}", "a dog"]),
    "spreadsheet": ("a.csv", "\ufeffid;caption;text\r\n1;a cat;b cat\r\n\r\n2;a dog;b, dog\r\n", ["b cat", "b, dog"]),
    "tabs": ("a.tsv", "caption\tid\na cat, red\t1\n", ["a cat, red"]),
    "one column": ("A.CSV", "text\na cat\n# dog\n", ["a cat", "# dog"]),
    "lines in a cell": ("a.csv", 'text\n"a cat\n\nsits"\na dog', ["a cat sits", "a dog"]),
    "missing and empty": ("a.csv", "id,text\n1\n2,\n3,c\n", ["c"]),
    "lines of objects": (
        "a.jsonl",
        '{"id": 1, "prompt": "a {x|y}"}\n\n{"text": "b\u2028c"}\n"d"\n',
        ["a {x|y}", "b c", "d"],
    ),
    "captions of a set": ("a.ndjson", '{"file_name": "a.png", "text": "a \\ud83d\\ude00"}', ["a \U0001f600"]),
    "list": ("a.json", '["a", {"caption": "b"}]', ["a", "b"]),
}


@pytest.mark.parametrize(("name", "content", "prompts"), TABLES.values(), ids=TABLES)
def test_tables_and_json_give_their_prompts_as_they_are(read, name, content, prompts):
    assert read(name, content) == prompts


REFUSED = {
    "Latin-1": ("a.txt", "a\ncafé".encode("latin-1"), r"a.txt, line 2: the byte 0xe9 is not UTF-8.*save it as UTF-8"),
    "Latin-1 table": ("a.csv", "text\nü".encode("cp1252"), r"a.csv, line 2: the byte 0xfc is not UTF-8"),
    "cut UTF-16": (
        "a.txt",
        "a".encode("utf-16") + b"b",
        "a.txt looks like UTF-16 text but is damaged; save it as UTF-8",
    ),
    "UTF-16 without mark": ("a.txt", "a\nb".encode("utf-16-le"), r"a.txt, line 1: a zero byte.*save it as UTF-8"),
    "brace": ("a.txt", "a\n{b", r"a.txt, line 2: '\{' is not closed"),
    "no header": (
        "a.csv",
        "a cat\na dog",
        r"a.csv, line 1: .* prompt, text or caption; got 'a cat'.*use a .txt file",
    ),
    "empty table": ("a.csv", "", "a.csv, line 1: the first line of a table must name its columns"),
    "comma without quotes": (
        "a.csv",
        "text\na cat\na cat, red",
        "line 3: 2 columns, but .* 1; put quotes around .* comma",
    ),
    "open quote": ("a.csv", 'text\n"a cat\nb', r"a.csv, line 3: unexpected end of data; check the quotes"),
    "large cell": ("a.csv", "text\n" + "a" * 200_000, r"a.csv, line 2: field larger than field limit"),
    "no JSON": ("a.jsonl", '{"text": "a"}\na cat', r"a.jsonl, line 2: not JSON .*use a .txt file"),
    "no field": (
        "a.jsonl",
        '{"words": "a"}',
        "line 1: must be text, or an object with text in prompt, .* object with words",
    ),
    "field of another type": ("a.jsonl", '{"text": ["a"]}', "line 1: must be text, or an object"),
    "number": ("a.jsonl", '"a"\n7', "line 2: must be text, or an object .* got int 7"),
    "deep JSON": ("a.json", "[" * 200_000, "a.json, too deep or too large: not JSON"),
    "large number": ("a.jsonl", "1" * 10_000, "a.jsonl, line 1: "),
    "object": ("a.json", '{"text": "a"}', "a.json: must be a list of texts, or of objects .*; got dict"),
    "too many": ("a.csv", "text\n" + "a\n" * 10_001, "a.csv, line 10002: more than 10000 prompts in a set"),
    "too long": ("a.jsonl", json.dumps("a" * 20_001), "a.jsonl, line 1: a prompt of more than 20000 characters"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_file_line_and_remedy(read, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(name, content)


def test_large_and_endless_files_are_refused_before_they_fill_the_memory(read, monkeypatch):
    monkeypatch.setattr(prompt_files, "MOST_BYTES", 20)
    assert read("a.txt", "a" * 20) == ["a" * 20]
    with pytest.raises(ValueError, match=r"a.txt has more than 20 bytes"):
        read("a.txt", "a" * 21)
    if os.path.exists("/dev/zero"):
        with pytest.raises(ValueError, match=r"zero has more than 20 bytes"):
            add_file(PromptReader(), "/dev/zero")


def test_file_that_is_not_there_or_is_a_folder_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match=r"there is no prompt file .*none\.txt"):
        add_file(PromptReader(), tmp_path / "none.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        add_file(PromptReader(), tmp_path)
