"""The canary test finds what it looks for, whatever it was encoded into."""

import base64
import json
from urllib.parse import quote, quote_plus, urlencode

import pytest

from tests.kit.hygiene_kit import forms

WORD = "grüße: an/bob?>"


@pytest.mark.parametrize(
    "text",
    [
        WORD,
        f"x{WORD}y".encode().hex(),
        f"x{WORD}y".encode().hex().upper(),
        json.dumps({"password": WORD}),
        urlencode({"password": WORD}),
        f"/login/{quote(WORD, safe='')}/",
        quote_plus(f"a {WORD} b"),
        *(
            encode(f"{before}{WORD}{after}".encode()).decode()
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
            for before in ("", "a", "ab", "bob:")
            for after in ("", "z", "yz", "\n")
        ),
    ],
)
def test_a_word_is_found_in_each_of_its_forms(text):
    assert any(form in text for form in forms(WORD))


def test_no_form_is_so_short_that_it_is_found_anywhere():
    assert min(len(form) for form in forms("testpass")) >= 8
