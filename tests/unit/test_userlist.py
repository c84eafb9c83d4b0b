"""What is added stays, what is removed stays away, and the lines of a file keep their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.reconcile import passwd, userlist
from jhswarmd.reconcile.userlist import NotPossible


def hash_of(entry):
    return f"$6$salt${len(entry.password):086d}"


def normalise(text, **kw):
    return userlist.normalise(text.encode(), hash_of, **{"is_ours": False, **kw})


def names(text):
    return [each.name for each in userlist.accounts(text.encode())]


FILE = normalise("alice:a\nbob:bb\n")
H = hash_of(passwd.Entry("x", "new", False))


def test_every_line_keeps_its_number_and_none_a_plain_password():
    text = normalise("# dave: was here, hunter2\r\n\r\nalice:hunter2\nno colon hunter2\nroot:x\n")
    assert "hunter2" not in text
    assert text.splitlines()[2] == f"alice:{hash_of(passwd.Entry('', 'hunter2', False))}"
    assert passwd.parse(text.encode()).refused == (
        "line 4: no colon between name and password; a line is name:password or name:hash",
        "line 5: the name of a system account",
    )


def test_marks_in_an_administrators_file_mean_nothing():
    text = normalise(f"{userlist.ADDED}\nalice:a\n# jhswarmd: removed bob\n")
    assert [each.source for each in userlist.accounts(text.encode())] == ["list"]
    assert userlist.removed(text) == frozenset()


def test_normalising_what_is_ours_changes_nothing():
    text = userlist.remove(userlist.add(FILE, "carol", H, replace=False), "bob")
    assert normalise(text, is_ours=True) == text


def test_an_added_account_says_so_and_its_plain_password_is_nowhere():
    text = userlist.add(FILE, "carol", H, replace=False)
    assert [(each.name, each.source) for each in userlist.accounts(text.encode())] == [
        ("alice", "list"),
        ("bob", "list"),
        ("carol", "added"),
    ]


def test_an_account_that_is_there_is_added_only_to_replace_it():
    with pytest.raises(NotPossible):
        userlist.add(FILE, "alice", H, replace=False)
    text = userlist.add(FILE, "alice", H, replace=True)
    assert names(text) == ["bob", "alice"]
    assert userlist.difference(FILE, text) == userlist.Change((), (), ("alice",))


def test_an_account_that_is_not_there_cannot_be_removed():
    with pytest.raises(NotPossible):
        userlist.remove(FILE, "zoe")


def test_a_changed_file_brings_and_takes_names_and_leaves_what_was_added():
    held = userlist.add(FILE, "carol", H, replace=False)
    merged = userlist.merge(held, normalise("alice:a\ndave:d\n"))
    assert names(merged) == ["alice", "dave", "carol"]
    assert userlist.difference(held, merged) == userlist.Change(("dave",), ("bob",), ())


def test_an_added_account_keeps_its_password_when_the_file_has_it_too():
    held = userlist.add(FILE, "carol", H, replace=False)
    merged = userlist.merge(held, normalise("alice:a\ncarol:other\n"))
    assert f"carol:{H}" in merged.splitlines()
    assert names(merged) == ["alice", "carol"]


def test_a_removed_account_does_not_come_back_with_a_changed_file():
    held = userlist.remove(FILE, "bob")
    merged = userlist.merge(held, normalise("alice:a\nbob:bb\ncarol:c\n"))
    assert names(merged) == ["alice", "carol"]
    again = userlist.add(merged, "bob", H, replace=False)
    assert names(again) == ["alice", "carol", "bob"]
    assert userlist.removed(again) == frozenset()


def test_what_the_file_no_longer_has_is_no_longer_kept_out():
    held = userlist.merge(userlist.remove(FILE, "bob"), normalise("alice:a\n"))
    assert names(userlist.merge(held, FILE)) == ["alice", "bob"]


NAME = st.sampled_from(["alice", "bob", "carol", "dave"])
STEP = st.tuples(st.sampled_from(["add", "remove"]), NAME) | st.tuples(
    st.just("merge"), st.frozensets(NAME)
)


@given(st.lists(STEP, max_size=12))
def test_what_was_done_last_by_hand_holds_whatever_the_file_says(steps):
    text, by_hand, file = FILE, {}, {"alice", "bob"}
    for action, what in steps:
        present = set(names(text))
        if action == "add":
            text = userlist.add(text, what, H, replace=True)
            by_hand[what] = True
        elif action == "remove" and what in present:
            text = userlist.remove(text, what)
            by_hand[what] = False
        elif action == "merge":
            file = set(what)
            text = userlist.merge(text, normalise("".join(f"{name}:p\n" for name in sorted(what))))
            # Who is neither in the file nor in the list is as good as never removed.
            by_hand = {name: held for name, held in by_hand.items() if held or name in file}
        expected = {name for name in file if by_hand.get(name, True)}
        expected |= {name for name, held in by_hand.items() if held}
        assert set(names(text)) == expected
        assert len(names(text)) == len(expected)
        assert normalise(text, is_ours=True) == text


def test_refused_lines_of_a_changed_file_are_told_whatever_was_removed_before():
    held = userlist.remove(userlist.add(FILE, "erin", H, replace=False), "erin")
    merged = userlist.merge(held, normalise("alice:a\nno colon\nbob:bb\n"))
    (refusal,) = passwd.parse(merged.encode()).refused
    assert refusal.startswith("line 2: no colon between name and password")
