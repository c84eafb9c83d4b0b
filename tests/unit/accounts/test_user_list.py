"""The list of users: odd lines are refused by their number, good ones still work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.accounts import user_list

SHA512 = "$6$saltsalt$" + "a" * 86
YESCRYPT = "$y$j9T$saltsaltsaltsaltsaltsa$" + "b" * 43


def parse(text, system_names=()):
    content = text if isinstance(text, bytes) else text.encode()
    return user_list.parse(content, system_names)


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


NEWUSERS = """\
training01:river::::/home/training01:/bin/bash
training02:river:1002:1002:Training:/home/training02:/bin/bash
ann:x:1000:1000:Ann:/home/ann:/bin/bash
"""
SHADOW = f"""\
ann:{SHA512}:19000:0:99999:7:::
bob:{YESCRYPT}:19000:0:99999:7:::
"""
NOT_A_LIST = """\
r00000001 admin
ann admin
bob
"""


def test_lines_of_shadow_are_the_hashes_in_them():
    users = parse(SHADOW)
    assert passwords(users) == {"ann": SHA512, "bob": YESCRYPT}
    assert all(entry.is_hashed for entry in users.entries.values())
    assert users.refused == ()


@pytest.mark.parametrize("text", [NEWUSERS, NOT_A_LIST])
def test_lines_of_another_form_are_refused_each_with_what_a_line_looks_like(text):
    users = parse(text)
    assert users.entries == {}
    assert [each.partition(":")[0] for each in users.refused] == ["line 1", "line 2", "line 3"]
    assert all("a line is name:password or name:hash" in each for each in users.refused)
    assert not any(word in str(users.refused) for word in ("river", "admin", "/home/ann"))


@pytest.mark.parametrize(
    "rest",
    [
        # shadow
        "!:19000:0:99999:7:::",
        "!!:19000:0:99999:7:::",
        "*:19000:0:99999:7:::",
        f"!{SHA512}:19000:0:99999:7:::",
        ":19000:0:99999:7:::",
        "x:19000:0:99999:7:::",
        "secret:19000:0:99999:7:::",
        "secret:::::::",
        f"{SHA512}:19000:0:99999:7::1:",
        f"{SHA512}:19000:0:99999:7:30::",
        f"{SHA512}:19000",
        f"{SHA512}:19000:0:99999:7::",
        f"{SHA512}:19000:0:99999:7:::more",
        "$1$saltsalt$" + "a" * 22 + ":19000:0:99999:7:::",
        "abJnggxhB/yWI:19000:0:99999:7:::",
        "*LK*:19000::::::",
        # passwd, newusers, master.passwd, group
        f"{SHA512}:1000:1000:Ann:/home/ann:/bin/bash",
        "*:1000:1000:Ann:/home/ann:/bin/bash",
        ":1000:1000:Ann:/home/ann:/bin/bash",
        "secret:1000:users:Ann,,,:/home/ann:",
        "secret:1000:1000:::",
        "secret:::::",
        "*:1000:1000::0:0:Ann:/home/ann:/bin/sh",
        "secret:1000:1000::0:0:Ann:/home/ann:/bin/sh",
        "x:1000:bob",
        "!::bob",
        # alone
        "x",
        "!",
        "*",
        "",
    ],
)
def test_nothing_of_an_account_files_line_is_a_password_and_a_locked_account_stays_locked(rest):
    users = parse(f"ann:{rest}\nbob:good\n")
    assert set(users.entries) == {"bob"}
    (refusal,) = users.refused
    assert refusal.startswith("line 1: ")
    assert "secret" not in refusal
    assert not rest[2:] or rest not in refusal


@pytest.mark.parametrize(
    "password",
    [
        "a:b:c",
        ":leading",
        "trailing:",
        "::",
        "a:1:2:3:4:5:6",
        "river:19000:0:99999:7",
        "https://x.example/:/bin",
        "a:b:c:d:e:f",
        "a:b:c:d:/e",
        "a:b:c:d:e:f:g:h",
        "12:30:15",
        "xx:y",
        "$6$:x",
    ],
)
def test_a_password_may_hold_colons(password):
    users = parse(f"ann:{password}\n")
    assert passwords(users) == {"ann": password}
    assert users.refused == ()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_every_encoding_with_a_mark_or_zeros_and_every_line_end_is_understood(encoding, end):
    text = end.join(["ann:p\u00e4ss", "nonsense", "bob:\u4e2d", ""])
    users = parse(text.encode(encoding))
    assert passwords(users) == {"ann": "p\u00e4ss", "bob": "\u4e2d"}
    (refusal,) = users.refused
    assert refusal.startswith("line 2: no colon")


def test_an_8_bit_encoding_is_named_for_each_of_its_lines():
    users = parse("ann:p\u00e4ss\nbob:ascii\n".encode("cp1252"))
    assert set(users.entries) == {"bob"}
    (refusal,) = users.refused
    assert refusal.startswith("line 1: not UTF-8, but probably Latin-1 or Windows-1252")
    assert "iconv" in refusal


def test_damaged_utf_16_is_named():
    users = parse("ann:pass\n".encode("utf-16") + b"\0")
    assert users.entries == {}
    assert "begins as UTF-16-LE does, but is damaged" in users.refused[0]


def test_the_first_of_two_lines_for_one_name_counts():
    users = parse("alice:first\nalice:second\n")
    assert passwords(users) == {"alice": "first"}
    assert users.refused == ("line 2: duplicate name; the first line is used",)


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
        (f"{SHA512} ", "whitespace"),
        (f"{YESCRYPT}\t", "whitespace"),
        (f" {SHA512}", "whitespace"),
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
    files = user_list.render(
        users.entries.values(), lambda entry: "HASH" + str(len(entry.password))
    )
    assert files["shadow"] == f"alice:HASH6:::::::\nbob:{SHA512}:::::::\n".encode()
    assert files["group"] == f"jhswarmd:x:{user_list.GID}:\n".encode()
    assert [line.split(b":")[2] for line in files["passwd"].splitlines()] == [b"20001", b"20002"]
    assert not any(b"secret" in content for content in files.values())


def test_an_entry_does_not_show_its_password():
    assert "secret" not in repr(parse("alice:secret").entries)


@given(st.binary())
def test_no_content_breaks_the_parser_or_the_format_of_the_files(content):
    users = user_list.parse(content)
    files = user_list.render(users.entries.values(), lambda entry: "HASH")
    assert len(files["passwd"].splitlines()) == len(users.entries)
    assert all(line.count(b":") == 6 for line in files["passwd"].splitlines())
    assert all(line.count(b":") == 8 for line in files["shadow"].splitlines())
