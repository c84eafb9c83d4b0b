"""The list of users: odd lines are refused by their number, good ones still work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.reconcile import passwd

SHA512 = "$6$saltsalt$" + "a" * 86
YESCRYPT = "$y$j9T$saltsaltsaltsaltsaltsa$" + "b" * 43


def parse(text, system_names=()):
    content = text if isinstance(text, bytes) else text.encode()
    return passwd.parse(content, system_names)


def passwords(users):
    return {name: entry.password for name, entry in users.entries.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("alice:secret\n", {"alice": "secret"}, id="plain"),
        pytest.param("alice:secret", {"alice": "secret"}, id="no last newline"),
        pytest.param("\ufeffalice:secret\n", {"alice": "secret"}, id="BOM"),
        pytest.param("alice:a\r\nbob:b\r\n", {"alice": "a", "bob": "b"}, id="CRLF"),
        pytest.param("\n  \n# note: x\nalice:a\n", {"alice": "a"}, id="blank lines, comments"),
        pytest.param("alice:a:b:c\n", {"alice": "a:b:c"}, id="split at the first colon"),
        pytest.param("alice: pa ss \n", {"alice": " pa ss "}, id="spaces belong to the password"),
        pytest.param("alice:pä`'\"$x\n", {"alice": "pä`'\"$x"}, id="quotes, non-ASCII"),
        pytest.param("alice:" + "x" * 500, {"alice": "x" * 500}, id="500 bytes"),
        pytest.param("", {}, id="empty"),
    ],
)
def test_good_lines_become_accounts(text, expected):
    users = parse(text)
    assert passwords(users) == expected
    assert users.refused == ()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("alicesecret", id="no colon"),
        pytest.param(":secret", id="no name"),
        pytest.param("alice:", id="no password"),
        pytest.param("alice:" + "x" * 501, id="501 bytes"),
        pytest.param("alice:\x00", id="NUL"),
        pytest.param(b"alice:\xff\xfe", id="no UTF-8"),
        pytest.param("root:x", id="system account"),
        pytest.param("messagebus:x", id="an account of the hub's image"),
        pytest.param("-alice:x", id="leading dash"),
        pytest.param("../alice:x", id="path"),
        pytest.param("a/b:x", id="slash"),
        pytest.param("Alice:x", id="upper case"),
        pytest.param("\u0430lice:x", id="look-alike letter"),
        pytest.param("a" * 33 + ":x", id="33 characters"),
        pytest.param("1alice:x", id="leading digit"),
        pytest.param("daemon:x", id="another system account"),
        pytest.param("al\0ice:x", id="NUL in the name"),
        pytest.param("alice:$1$saltsalt$" + "a" * 22, id="a hash by MD5"),
        pytest.param("alice:$sha1$40000$saltsalt$" + "a" * 28, id="a hash by SHA-1"),
    ],
)
def test_a_bad_line_is_refused_by_its_number_and_not_by_its_content(line):
    raw = line if isinstance(line, bytes) else line.encode()
    users = parse(b"bob:good\n" + raw + b"\ncarol:good\n", {"messagebus"})
    assert set(users.entries) == {"bob", "carol"}
    (refusal,) = users.refused
    assert refusal.startswith("line 2: ")
    for part in (b"secret", b"alicesecret", b"Alice", raw):
        assert part.decode(errors="ignore") not in refusal or part == b""


def test_the_first_of_two_lines_for_one_name_counts():
    users = parse("alice:first\nalice:second\n")
    assert passwords(users) == {"alice": "first"}
    assert users.refused == ("line 2: the name is there already; the first line counts",)


@pytest.mark.parametrize(
    ("password", "is_hashed"),
    [
        (SHA512, True),
        (YESCRYPT, True),
        ("$2b$12$" + "a" * 53, True),
        ("$2b$99$" + "a" * 53, False),
        ("$6$a salt$" + "a" * 86, False),
        ("$6$short", False),
        ("$ecret", False),
        ("$6$$", False),
    ],
)
def test_only_the_full_form_of_a_hash_counts_as_one(password, is_hashed):
    assert parse(f"alice:{password}").entries["alice"].is_hashed is is_hashed


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("!", "locked"),
        ("*", "locked"),
        ("!!", "locked"),
        ("!*", "locked"),
        (f"!{SHA512}", "locked"),
        ("$apr1$abcdefgh$" + "a" * 22, "cannot check"),
        ("{SHA}" + "a" * 27 + "=", "cannot check"),
        ("{SSHA}" + "a" * 32, "cannot check"),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "cannot check"),
        (f"{SHA512} ", "blank"),
        (f"{YESCRYPT}\t", "blank"),
        (f" {SHA512}", "blank"),
    ],
)
def test_what_stands_in_shadow_for_no_password_is_none(password, why):
    users = parse(f"alice:{password}\nbob:secret")
    assert list(users.entries) == ["bob"]
    assert why in users.refused[0]
    assert len(password) < 3 or password not in users.refused[0]


@pytest.mark.parametrize(
    "password", ["!secret", "*secret*", "$apr1$", "{SHA}", "{secret}x", "$argon2"]
)
def test_a_plain_password_may_look_a_little_like_that(password):
    assert parse(f"alice:{password}").entries["alice"].password == password


def test_the_files_hold_hashes_and_never_a_plain_password():
    users = parse(f"alice:secret\nbob:{SHA512}\n")
    files = passwd.render(users.entries.values(), lambda entry: "HASH" + str(len(entry.password)))
    assert files["shadow"] == f"alice:HASH6:::::::\nbob:{SHA512}:::::::\n".encode()
    assert files["group"] == f"jhswarmd:x:{passwd.GID}:\n".encode()
    assert [line.split(b":")[2] for line in files["passwd"].splitlines()] == [b"20001", b"20002"]
    assert not any(b"secret" in content for content in files.values())


def test_an_entry_does_not_show_its_password():
    assert "secret" not in repr(parse("alice:secret").entries)


@given(st.binary())
def test_no_content_breaks_the_parser_or_the_format_of_the_files(content):
    users = passwd.parse(content)
    files = passwd.render(users.entries.values(), lambda entry: "HASH")
    assert len(files["passwd"].splitlines()) == len(users.entries)
    assert all(line.count(b":") == 6 for line in files["passwd"].splitlines())
    assert all(line.count(b":") == 8 for line in files["shadow"].splitlines())
