"""From the list of users to the files of the account database. Pure.

The list has one ``name:password`` a line, split at the first colon; a password may also be a
crypt hash. A line of /etc/shadow with a hash works too. Lines that cannot be used, those of other
account files among them, are refused by their number, never by their content, and the good ones
still work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jhswarmd import encodings

#: Names that any POSIX system takes, as shadow's useradd has it.
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
#: Modular crypt formats that Debian's libcrypt verifies (crypt(5)), in their full form: a plain
#: password may begin with '$' too.
_HASH = re.compile(
    r"^\$(?:"
    r"y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
    r"|gy\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
    r"|7\$[./A-Za-z0-9]{11,97}\$[./A-Za-z0-9]{43}"
    r"|2[abxy]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}"
    r"|6\$(?:rounds=[1-9][0-9]+\$)?[^\x00-\x20$:;*!\\\x7f-\uffff]{1,16}\$[./0-9A-Za-z]{86}"
    r"|5\$(?:rounds=[1-9][0-9]+\$)?[^\x00-\x20$:;*!\\\x7f-\uffff]{1,16}\$[./0-9A-Za-z]{43}"
    r")\Z"
)
#: Of kinds that anybody breaks in hours. Taken for a password, such a line would let in whoever has
#: read it, and nobody else.
_BROKEN_HASH = re.compile(
    r"^\$(?:1\$[^$:\n]{0,8}\$[./0-9A-Za-z]{22}|sha1\$[0-9]+\$[./0-9A-Za-z]{1,64}\$[./0-9A-Za-z]{28})\Z"
)
#: Of kinds that libcrypt does not verify: Apache's, LDAP's, Argon2.
_FOREIGN_HASH = re.compile(
    r"^(?:\$apr1\$[^$:\n]{0,8}\$[./0-9A-Za-z]{22}|\$argon2(?:i|d|id)\$.+\$.+"
    r"|\{[A-Z0-9-]{3,16}\}[A-Za-z0-9+/$.=]{13,})\Z"
)
#: What the place of a password says in an account file when nobody may log in by one, or when the
#: password is in another file.
_LOCKED = re.compile(r"^(?:[!*]+(?:\$.*)?|x|\*LK\*|\*NP\*)\Z")
#: How many fields follow the password's on lines of account files.
_SHADOW_FIELDS, _PASSWD_FIELDS, _MASTER_PASSWD_FIELDS = 7, 5, 8
_NUMBER = re.compile(r"-?[0-9]*\Z")
_NAME_OR_NUMBER = re.compile(r"[A-Za-z0-9_.-]*\Z")
#: Behind each refusal of a line that has another form.
_FORM = "a line is name:password or name:hash"
#: Accounts of every Debian system (base-passwd), so that a list can be checked anywhere.
SYSTEM_NAMES = frozenset(
    [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "nobody",
        "_apt",
    ]
)
#: libcrypt refuses longer ones.
MAX_PASSWORD_BYTES = 500

#: The group whose members may log in; the PAM service of the hub asks for it.
GROUP = "jhswarmd"
GID = 20000
FIRST_UID = 20001


@dataclass(frozen=True)
class Entry:
    """One usable line. ``is_hashed`` tells a crypt hash from a plain password."""

    name: str
    password: str
    is_hashed: bool

    def __repr__(self) -> str:
        """Leave the password out."""
        return f"Entry({self.name!r})"


@dataclass(frozen=True)
class UserList:
    """What a list says: usable entries by name, and refusals such as ``line 3: no colon``."""

    entries: Mapping[str, Entry]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One line: an entry, or the reason why it is refused, or one of our own marks, or nothing."""

    number: int
    entry: Entry | None = None
    refusal: str = ""
    mark: str = ""


#: What we write into a list begins so; to everybody else it is a comment.
MARK = "# jhswarmd: "
#: In the place of a line that was refused before the list became a secret.
REFUSED = MARK + "refused: "


def parse(content: bytes, system_names: Collection[str] = ()) -> UserList:
    """Parse the list.

    ``system_names`` are accounts that the hub's container has besides ``SYSTEM_NAMES``.
    """
    lines = list(read_lines(content, system_names))
    return UserList(
        {line.entry.name: line.entry for line in lines if line.entry},
        tuple(f"line {line.number}: {line.refusal}" for line in lines if line.refusal),
    )


def read_lines(content: bytes, system_names: Collection[str] = ()) -> Iterator[Line]:
    """Yield what each line is, numbered from 1."""
    names: set[str] = set()
    try:
        text = encodings.to_utf8(content)
    except encodings.UndecodableError as exc:
        yield Line(1, refusal=f"the whole file {exc}")
        return
    for number, line in enumerate(encodings.LINE_END_BYTES.split(text), start=1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            said = line.decode(errors="replace")
            if said.startswith(REFUSED):
                yield Line(number, refusal=said.removeprefix(REFUSED))
            else:
                yield Line(number, mark=said if said.startswith(MARK) else "")
            continue
        try:
            entry = _parse_line(line, system_names)
            if entry.name in names:
                raise ValueError("duplicate name; the first line is used")
        except ValueError as exc:
            yield Line(number, refusal=str(exc))
        else:
            names.add(entry.name)
            yield Line(number, entry)


def check_name(name: str, system_names: Collection[str] = ()) -> None:
    """Raise ValueError with the reason why there cannot be an account of this name."""
    if not _NAME.match(name):
        raise ValueError(
            "not a portable name (lower case letters, digits, '_' and '-', 32 at most)"
        )
    if name in SYSTEM_NAMES or name in system_names:
        raise ValueError("the name of a system account")


def check_password(password: str) -> None:
    """Raise ValueError with the reason why this cannot be a password, or a hash of one."""
    if not password:
        raise ValueError("no password")
    if "\0" in password or "\n" in password:
        raise ValueError("a NUL byte or a line's end in the password")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise ValueError(f"the password is longer than {MAX_PASSWORD_BYTES} bytes")
    if _BROKEN_HASH.match(password):
        raise ValueError("an MD5 or SHA-1 hash, which is not safe: hash the password again")
    if _FOREIGN_HASH.match(password):
        raise ValueError("a hash of a kind that Linux cannot check: hash the password again")
    if _LOCKED.match(password):
        raise ValueError("a locked account ('!', '*' or 'x' as in /etc/shadow or /etc/passwd)")
    first, colon, _ = password.partition(":")
    if colon and (is_hash(first) or _BROKEN_HASH.match(first) or _FOREIGN_HASH.match(first)):
        raise ValueError(f"a hash and more fields behind it; {_FORM}")
    if not is_hash(password) and is_hash(password.strip()):
        raise ValueError("whitespace around the hash")


def is_hash(password: str) -> bool:
    """Tell whether this is a crypt hash in its full form, not a plain password."""
    return _HASH.match(password) is not None


def _parse_line(line: bytes, system_names: Collection[str]) -> Entry:
    """Return the entry, or raise ValueError with a reason that repeats nothing of the line."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        # 'from None': the original holds the bytes.
        raise ValueError(encodings.NOT_UTF8) from None
    if "\0" in text:
        raise ValueError("a NUL byte, as UTF-16 has it: save the file as UTF-8")
    name, colon, password = text.partition(":")
    name = name.strip()
    if not colon:
        raise ValueError(f"no colon between name and password; {_FORM}")
    if not name:
        raise ValueError(f"no name; {_FORM}")
    check_name(name, system_names)
    password = _password_field(password)
    check_password(password)
    return Entry(name, password, is_hash(password))


def _password_field(rest: str) -> str:
    """Return what of the text behind the name is the password: all of it, or a shadow line's hash.

    A line counts as one of another account file only when it has exactly that file's fields:

    - shadow: the password and seven more, numbers or empty;
    - passwd, newusers: the password and five more, at the end home and shell (a path or empty, the
      ids numbers when both are empty);
    - master.passwd: the password and eight more, the same two at the end;
    - and whatever has a whole hash, or a mark of a locked account, in front of another colon.

    Raises ValueError with a reason that repeats nothing of the line.
    """
    first, colon, _ = rest.partition(":")
    if not colon:
        return rest
    fields = rest.split(":")[1:]
    if len(fields) == _SHADOW_FIELDS and all(_NUMBER.match(field) for field in fields):
        return _shadow_password(first, fields)
    if _is_passwd(fields):
        raise ValueError(f"the fields of a line of /etc/passwd, or for newusers; {_FORM}")
    if _LOCKED.match(first):
        raise ValueError(f"a locked account, or one of another account file; {_FORM}")
    return rest


def _shadow_password(password: str, fields: Sequence[str]) -> str:
    """Return the hash of a shadow line; its dates are not kept, so none may end the account."""
    if not password:
        raise ValueError("a line of /etc/shadow without a password")
    if any(fields[at] not in ("", "-1") for at in (4, 5)):
        raise ValueError(
            "a line of /etc/shadow whose account ends on a day, which is not kept here; to let it "
            "in, write name:hash"
        )
    # Of a kind that check_password refuses with words of its own.
    known = (is_hash, _LOCKED.match, _BROKEN_HASH.match, _FOREIGN_HASH.match)
    if not any(matches(password) for matches in known):
        raise ValueError(f"the fields of a line of /etc/shadow, but no hash; {_FORM}")
    return password


def _is_passwd(fields: Sequence[str]) -> bool:
    """Tell whether these, behind the password, are fields of passwd, newusers or master.passwd."""
    if len(fields) not in (_PASSWD_FIELDS, _MASTER_PASSWD_FIELDS):
        return False
    ids, paths = fields[:2], fields[-2:]
    if not all(path == "" or path.startswith("/") for path in paths):
        return False
    pattern = _NAME_OR_NUMBER if any(paths) else _NUMBER
    return all(pattern.match(each) for each in ids)


def render(entries: Iterable[Entry], hash_of: Callable[[Entry], str]) -> dict[str, bytes]:
    """Return the contents of ``passwd``, ``group`` and ``shadow``, for libnss-extrausers.

    The accounts exist to check a password in the hub's container: they have no home and no shell
    there. Their numbers mean nothing elsewhere. The group names no members: it is everybody's
    first one, and libpam gives up on a line of more than 256 KiB (pam_modutil_getgrnam), which is
    less than 10,000 long names.
    """
    passwd, shadow = [], []
    for uid, entry in enumerate(entries, start=FIRST_UID):
        hashed = entry.password if entry.is_hashed else hash_of(entry)
        passwd.append(f"{entry.name}:x:{uid}:{GID}::/nonexistent:/usr/sbin/nologin\n")
        shadow.append(f"{entry.name}:{hashed}:::::::\n")
    return {
        "passwd": "".join(passwd).encode(),
        "group": f"{GROUP}:x:{GID}:\n".encode(),
        "shadow": "".join(shadow).encode(),
    }
