"""Passwords are hashed by the system's libcrypt, each once."""

import threading

from jhswarmd.accounts import hashing, user_list
from jhswarmd.accounts.hashing import Hasher, hash_password, is_hash_of


def test_a_hash_is_one_that_lists_know_and_has_a_salt_of_its_own():
    first, second = hash_password("pä:ss"), hash_password("pä:ss")
    assert first.startswith("$y$")
    assert user_list.is_hash(first)
    assert first != second


def test_a_password_is_known_again_by_its_hash_of_any_method():
    sha512 = (
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI"
        "68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    )
    for hashed in (hash_password("Hello world!"), sha512):
        assert is_hash_of("Hello world!", hashed)
        assert not is_hash_of("Hello world", hashed)
    assert not is_hash_of("x", "no hash")


def test_each_entry_is_hashed_once_whatever_else_changes(monkeypatch):
    hashed = []
    monkeypatch.setattr(hashing, "hash_password", lambda password: hashed.append(password) or "H")
    hasher = Hasher(threads=2)
    assert hasher.work([("alice", "a"), ("bob", "b"), ("carol", "a")]) == 0
    assert sorted(hashed) == ["a", "a", "b"]  # equal passwords do not show
    hasher.keep([("alice", "a"), ("dave", "d")])
    assert hasher.work([("alice", "a"), ("dave", "d")]) == 0
    assert hashed[3:] == ["d"]
    assert hasher.get("bob", "b") is None


def test_hashing_stops_in_time_and_says_what_is_left(monkeypatch):
    monkeypatch.setattr(hashing, "hash_password", lambda password: "H")
    hasher = Hasher(threads=2)
    wanted = [(f"u{number}", "x") for number in range(5)]
    assert hasher.work(wanted, within_s=0.0) == 5
    assert hasher.work(wanted) == 0


def test_threads_hash_beside_each_other(monkeypatch):
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(hashing, "hash_password", lambda password: str(both.wait()))
    assert Hasher(threads=2).work([("alice", "a"), ("bob", "b")]) == 0
