"""Env files: the rules of Compose, and an error where Compose would guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.deploy.profiles import env_file

ENVIRON = {"OUT": "outside", "EMPTY": "", "SAME": "same"}


def value_of(text, environ=ENVIRON, earlier=None):
    entries, errors = env_file.parse(text, environ, earlier or {})
    assert errors == []
    return entries["KEY"].value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("KEY=a", "a"),
        ("KEY=", ""),
        ("KEY", None),
        ("  export   KEY=a  ", "a"),
        ("KEY = a", "a"),
        ("KEY: a", "a"),
        ("KEY=a b", "a b"),
        ("KEY=a=b", "a=b"),
        # comments
        ("KEY=a # b", "a"),
        ("KEY=a\t# b", "a"),
        ("KEY=a   #b", "a"),
        ("KEY= # b", ""),
        ("KEY= #", ""),
        ("KEY=a#b", None),
        ("KEY=#b", None),
        ("KEY=a#b # c", None),
        ("# KEY=x\nKEY=a", "a"),
        # quotes
        ('KEY="a # b"', "a # b"),
        ("KEY='a # b'", "a # b"),
        ('KEY="a" # b', "a"),
        ('KEY="a"# b', "a"),
        ("KEY='a'   ", "a"),
        ("KEY='a' b", None),
        ("KEY='a', 'b'", None),
        ("KEY=--one 'two three'", "--one 'two three'"),
        ("KEY=it's", "it's"),
        ("KEY='", None),
        ('KEY="a', None),
        ('KEY="a\\"', None),
        (r"KEY='Let\'s go!'", "Let's go!"),
        (r'KEY="{\"a\": \"b\"}"', '{"a": "b"}'),
        (r'KEY="a\tb\nc\\d"', "a\tb\nc\\d"),
        (r"KEY='a\tb'", r"a\tb"),
        (r"KEY=a\tb", r"a\tb"),
        (r'KEY="a\qb"', r"a\qb"),
        ('KEY=""', ""),
        ("KEY='a\nb # no comment\nc'\nOTHER=1", "a\nb # no comment\nc"),
        ('KEY="a\r\nb"', "a\nb"),
        # variables
        ("KEY=$OUT", "outside"),
        ("KEY=${OUT}/x", "outside/x"),
        ('KEY="${OUT}"', "outside"),
        ("KEY='${OUT}'", "${OUT}"),
        ("KEY='$OUT'", "$OUT"),
        ("KEY=a$$b", "a$b"),
        ("KEY=$${OUT}", "${OUT}"),
        (r'KEY="\$OUT"', "$OUT"),
        (r"KEY=\$OUT", None),
        ("UP=1\nKEY=${UP}2", "12"),
        ("UP='$OUT'\nKEY=$UP", "$OUT"),
        ("SAME=same\nKEY=$SAME", "same"),
        ("SAME=other\nKEY=$SAME", None),
        ("KEY=$NONE", None),
        ("KEY=${NONE}", None),
        ("KEY=${NONE:-a b}", "a b"),
        ("KEY=${NONE-a}", "a"),
        ("KEY=${EMPTY-a}", ""),
        ("KEY=${EMPTY:-a}", "a"),
        ("KEY=${EMPTY:-${OUT}}", "outside"),
        ("KEY=${OUT:-${NONE}}", "outside"),
        ("KEY=${OUT:?no}", "outside"),
        ("KEY=${NONE:?no}", None),
        ("KEY=${EMPTY?no}", ""),
        ("KEY=${OUT:+a}", "a"),
        ("KEY=${NONE:+a}", ""),
        ("KEY=${OUT", None),
        ("KEY=${OUT:-a", None),
        ("KEY=${OUT!x}", None),
        ("KEY=$1", None),
        ("KEY=5$", None),
        ("KEY=${}", None),
        ("KEY=$(id)", None),
        # a file's end of lines
        ("A=1\r\nKEY=a\r\nB=2", "a"),
        ("A=1\rKEY=a\rB=2", "a"),
        ("KEY=a\nKEY=b", "b"),
        ("KEY=a\0b", None),
    ],
)
def test_a_value_is_as_in_compose_or_refused(text, value):
    if value is not None:
        assert value_of(text) == value
        return
    entries, (error,) = env_file.parse(text, ENVIRON, {})
    assert "KEY" not in entries
    assert error.line == text.count("\n") + 1


def test_each_error_has_its_line_and_the_rest_of_the_file_still_counts():
    text = "A='x\ny'\nB=a#b\n\nC='unclosed\nD=1\nE=\"two\nlines\" x\nF=2\nnonsense\n"
    entries, errors = env_file.parse(text, {}, {})
    assert {key: (entry.value, entry.line) for key, entry in entries.items()} == {
        "A": ("x\ny", 1),
        "D": ("1", 6),
        "F": ("2", 9),
    }
    assert [error.line for error in errors] == [3, 5, 7, 10]


@given(st.text(alphabet="AB=:'\"\\$#{}-+? \n\rsecret"))
def test_no_text_breaks_the_parser_and_an_unquoted_hash_is_in_no_value(text):
    entries, errors = env_file.parse(text, {"A": "x"}, {})
    if "'" not in text and '"' not in text:
        assert not any("#" in entry.value for entry in entries.values())
    assert all("secret" not in error.message for error in errors)


def test_an_error_repeats_no_value():
    for text in ("A='hidden", "A=hidden#x", "A=$(hidden)", "A='x' hidden", "hidden"):
        _, (error,) = env_file.parse(text, {}, {})
        assert "hidden" not in error.message
