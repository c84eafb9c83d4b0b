"""The newest complete generation counts, and a list that is too large has parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.credentials import generations
from jhswarmd.credentials.generations import SecretVersion, newest


def secret(kind, generation, parts=1):
    name = f"jupyterhub_{kind}_g{generation}"
    return SecretVersion(f"id-{name}", name, kind, generation, "", parts=parts)


def test_the_newest_is_the_highest_number_of_which_every_part_is_there():
    held = [secret("users", 9), secret("users", 10, parts=2), secret("crypt_key", 12)]
    assert newest(held, "users").number == 9
    found = newest([*held, secret("users_2", 10, parts=2)], "users")
    assert [each.name for each in found.secrets] == [
        "jupyterhub_users_g10",
        "jupyterhub_users_2_g10",
    ]


def test_a_part_without_the_first_one_is_no_generation():
    assert newest([secret("users_2", 1, parts=2)], "users") is None


def test_labels_tell_what_a_secret_is():
    marks = generations.version_labels(
        "jupyterhub", "users_2", 7, "generated", parts=3, request="abc"
    )
    spec = {"Name": "n", "Labels": marks}
    found = generations.read({"ID": "i", "CreatedAt": "t", "Spec": spec})
    assert found == SecretVersion("i", "n", "users_2", 7, "generated", "t", 3, "abc")
    assert generations.read({"ID": "i", "CreatedAt": "t", "Spec": {"Name": "n"}}) is None


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line and b"\r" not in line))
)
def test_parts_fit_and_together_are_the_content(lines):
    content = b"".join(line + b"\n" for line in lines)
    parts = generations.split(content, most=21)
    assert all(0 < len(part) <= 21 for part in parts)
    assert b"".join(parts) == (content or b"\n")


def test_a_line_that_no_secret_can_hold_is_refused():
    with pytest.raises(ValueError, match="longer"):
        generations.split(b"x" * 22, most=21)
