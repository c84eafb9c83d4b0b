"""What is added stays, what is removed stays away, and the lines of a file keep their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.accounts import edits, user_list
from jhswarmd.accounts.edits import NotPossible


def hash_of(entry):
    return f"$6$salt${len(entry.password):086d}"


def normalise(text, **kw):
    return edits.normalise(text.encode(), hash_of, **{"is_ours": False, **kw})


def names(text):
    return [each.name for each in edits.accounts(text.encode())]


FILE = normalise("alice:a\nbob:bb\n")
H = hash_of(user_list.Entry("x", "new", False))


def test_every_line_keeps_its_number_and_none_a_plain_password():
    text = normalise("# dave: was here, hunter2\r\n\r\nalice:hunter2\nno colon hunter2\nroot:x\n")
    assert "hunter2" not in text
    assert text.splitlines()[2] == f"alice:{hash_of(user_list.Entry('', 'hunter2', False))}"
    assert user_list.parse(text.encode()).refused == (
        "line 4: no colon between name and password; a line is name:password or name:hash",
        "line 5: the name of a system account",
    )


def test_marks_in_an_administrators_file_mean_nothing():
    text = normalise(f"{edits.ADDED}\nalice:a\n# jhswarmd: removed bob\n")
    assert [each.source for each in edits.accounts(text.encode())] == ["list"]
    assert edits.removed(text) == frozenset()


def test_normalising_what_is_ours_changes_nothing():
    text = edits.remove(edits.add(FILE, "carol", H, replace=False), "bob")
    assert normalise(text, is_ours=True) == text


def test_an_added_account_says_so_and_its_plain_password_is_nowhere():
    text = edits.add(FILE, "carol", H, replace=False)
    assert [(each.name, each.source) for each in edits.accounts(text.encode())] == [
        ("alice", "list"),
        ("bob", "list"),
        ("carol", "added"),
    ]


def test_an_account_that_is_there_is_added_only_to_replace_it():
    with pytest.raises(NotPossible):
        edits.add(FILE, "alice", H, replace=False)
    text = edits.add(FILE, "alice", H, replace=True)
    assert names(text) == ["bob", "alice"]
    assert edits.difference(FILE, text) == edits.Change((), (), ("alice",))


def test_an_account_that_is_not_there_cannot_be_removed():
    with pytest.raises(NotPossible):
        edits.remove(FILE, "zoe")


def test_a_changed_file_brings_and_takes_names_and_leaves_what_was_added():
    held = edits.add(FILE, "carol", H, replace=False)
    merged = edits.merge(held, normalise("alice:a\ndave:d\n"))
    assert names(merged) == ["alice", "dave", "carol"]
    assert edits.difference(held, merged) == edits.Change(("dave",), ("bob",), ())


def test_an_added_account_keeps_its_password_when_the_file_has_it_too():
    held = edits.add(FILE, "carol", H, replace=False)
    merged = edits.merge(held, normalise("alice:a\ncarol:other\n"))
    assert f"carol:{H}" in merged.splitlines()
    assert names(merged) == ["alice", "carol"]


def test_a_removed_account_does_not_come_back_with_a_changed_file():
    held = edits.remove(FILE, "bob")
    merged = edits.merge(held, normalise("alice:a\nbob:bb\ncarol:c\n"))
    assert names(merged) == ["alice", "carol"]
    again = edits.add(merged, "bob", H, replace=False)
    assert names(again) == ["alice", "carol", "bob"]
    assert edits.removed(again) == frozenset()


def test_what_the_file_no_longer_has_is_no_longer_kept_out():
    held = edits.merge(edits.remove(FILE, "bob"), normalise("alice:a\n"))
    assert names(edits.merge(held, FILE)) == ["alice", "bob"]


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
            text = edits.add(text, what, H, replace=True)
            by_hand[what] = True
        elif action == "remove" and what in present:
            text = edits.remove(text, what)
            by_hand[what] = False
        elif action == "merge":
            file = set(what)
            text = edits.merge(text, normalise("".join(f"{name}:p\n" for name in sorted(what))))
            # Who is neither in the file nor in the list is as good as never removed.
            by_hand = {name: held for name, held in by_hand.items() if held or name in file}
        expected = {name for name in file if by_hand.get(name, True)}
        expected |= {name for name, held in by_hand.items() if held}
        assert set(names(text)) == expected
        assert len(names(text)) == len(expected)
        assert normalise(text, is_ours=True) == text


def test_refused_lines_of_a_changed_file_are_told_whatever_was_removed_before():
    held = edits.remove(edits.add(FILE, "erin", H, replace=False), "erin")
    merged = edits.merge(held, normalise("alice:a\nno colon\nbob:bb\n"))
    (refusal,) = user_list.parse(merged.encode()).refused
    assert refusal.startswith("line 2: no colon between name and password")
