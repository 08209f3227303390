"""How deeply JSON may be nested, measured without parsing it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eclipse_ws.protocol import MAX_DEPTH, TooDeepError, check_depth, decode_json
from eclipse_ws.protocol.depth import bounded, depth
from tests.nested import nested

TEXTS = st.text(st.sampled_from('[]{}"\\\n,:é𝄞') | st.characters(), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=40,
)


def naive(value: Any) -> int:
    """How deeply a value is nested, by walking it."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(naive, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_depth_of_a_text_is_the_depth_of_its_value(value: Any, ascii_only: bool, indent: int | None) -> None:
    """The depth of a text's brackets equals that of its value, whatever its strings and keys contain."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert depth(text.encode("utf-8", "surrogatepass")) == naive(value)


@given(st.text(st.sampled_from('[]{}"\\x'), max_size=40))
@example('"\\')
@example('["\\"[","[')
def test_depth_until_a_parser_stops(text: str) -> None:
    """For invalid JSON, the depth is at least the depth that a parser reaches."""
    deepest = level = 0
    inside = escaped = False
    expected: list[str] = []
    for char in text:
        if inside:
            inside = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char in "[{":
            expected.append("]" if char == "[" else "}")
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            if not expected or expected.pop() != char:
                break
            level -= 1
        else:
            inside = char == '"'
    assert depth(text.encode()) >= deepest


@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}"), ('[{"a]}":', "}]")])
def test_limit(brackets: tuple[str, str], kind: Any) -> None:
    """MAX_DEPTH levels pass, one more doesn't, nor do 100,000; half of a text is as deep as the whole."""
    opening, closing = brackets
    step = opening.count("[") + opening.count("{")
    limit = MAX_DEPTH // step
    check_depth(kind(opening * limit + "1" + closing * limit))
    for levels in (limit + 1, 100_000):
        for text in (opening * levels + "1" + closing * levels, opening * levels):
            with pytest.raises(TooDeepError, match=f"more than {MAX_DEPTH} deep"):
                check_depth(kind(text))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "message", "content": "[{" * 30_000}),
        json.dumps({"type": "message", "content": '"[\\' * 30_000}),
        json.dumps({"[{" * 300: '\\"[{' * 300}),
        json.dumps([{"id": number, "tags": []} for number in range(10_000)]),
        json.dumps([[[] for _ in range(100)] for _ in range(100)]),
        "5" * 10_000,
        '"\ud800' + "[" * 1000 + '"',
    ],
)
def test_many_brackets_are_not_deep(text: str) -> None:
    """Brackets in strings and keys, and flat lists of any length, are accepted."""
    check_depth(text)
    check_depth(text.encode("utf-8", "surrogatepass"))


def test_bounded_decoder() -> None:
    """A bounded decoder reads valid input as before, and refuses deep input like any invalid text."""
    decode = bounded(msgspec.json.Decoder(list[Any]).decode)
    assert decode("[[1]]") == decode(b"[[1]]") == [[1]]
    assert naive(decode(nested(MAX_DEPTH))) == MAX_DEPTH
    with pytest.raises(msgspec.DecodeError, match="deep"):
        decode(nested(MAX_DEPTH + 1))
    for wrong in ("[", b"["):
        with pytest.raises(msgspec.DecodeError, match="truncated"):
            decode(wrong)


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff", nested(MAX_DEPTH + 1), nested(100_000), "[1]".encode("utf-16")]
)
def test_answers_of_other_servers(text: str | bytes) -> None:
    """Invalid or too deeply nested JSON raises a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        decode_json(text)
    assert decode_json('{"a":[1.5,null]}') == {"a": [1.5, None]}
