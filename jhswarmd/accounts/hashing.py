"""Hashes of passwords, made by the system's own libcrypt: what PAM in the hub's image reads.

libcrypt is called through ctypes, which releases Python's lock: threads use all cores, and no
password travels to another process. (Python's own ``crypt`` and its heirs hold the lock.)
"""

from __future__ import annotations

import ctypes
import hmac
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from jhswarmd.errors import JhswarmdError

#: yescrypt, the default of Debian since 11, at the cost that its passwd(1) uses.
_METHOD = b"$y$"
#: Sizes from crypt.h: of a setting or hash with its final zero byte, and of crypt's scratch.
_OUTPUT_SIZE = 384
_DATA_SIZE = 32768
#: Each one in work takes 16 MiB of memory.
MOST_THREADS = 16
#: A minute of hashing must not slow the hub on the same node.
_NICENESS = 10


@cache
def _libcrypt() -> ctypes.CDLL:
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        try:
            library = ctypes.CDLL(name)
            library.crypt_gensalt_rn.restype = ctypes.c_char_p
            library.crypt_rn.restype = ctypes.c_char_p
        except (OSError, AttributeError):
            continue
        return library
    raise JhswarmdError(
        "This system cannot hash passwords",
        why="it has no libxcrypt (libcrypt.so)",
        remedy="Install it (Debian: libcrypt1), or write hashes into the list of users.",
    )


def hash_password(password: str) -> str:
    """Return a yescrypt hash with a salt of its own. Raises JhswarmdError when none can be made.

    ``password`` has no NUL and at most 500 bytes.
    """
    return _hash(password, _METHOD, 0)


def hash_for_registry(password: str) -> str:
    """Return a bcrypt hash, the only kind that a registry reads. Raises JhswarmdError.

    The registry computes it for each request, so the cost is the lowest one: for a password that
    is random, not one that a person chose. At most 72 bytes.
    """
    return _hash(password, b"$2b$", 4)


def _hash(password: str, method: bytes, cost: int) -> str:
    setting = ctypes.create_string_buffer(_OUTPUT_SIZE)
    # No bytes of ours: libcrypt asks the kernel for random ones.
    made = _libcrypt().crypt_gensalt_rn(
        method, ctypes.c_ulong(cost), None, 0, setting, ctypes.c_int(_OUTPUT_SIZE)
    )
    hashed = made and _crypt(password, made)
    if not hashed:
        raise JhswarmdError(
            "This system cannot hash passwords",
            why=f"its libcrypt does not know the method {method.decode()}",
            remedy="Update it, or write hashes into the list of users.",
        )
    return str(hashed.decode())


def is_hash_of(password: str, hashed: str) -> bool:
    """Tell whether a hash, of any method that libcrypt knows, is one of this password."""
    made = _crypt(password, hashed.encode())
    return made is not None and hmac.compare_digest(made, hashed.encode())


def _crypt(password: str, setting: bytes) -> bytes | None:
    """Return the hash that ``setting`` asks for, which may be a hash; None: libcrypt cannot."""
    scratch = ctypes.create_string_buffer(_DATA_SIZE)
    size = ctypes.c_int(_DATA_SIZE)
    hashed: bytes | None = _libcrypt().crypt_rn(password.encode(), setting, scratch, size)
    # What crypt has in its scratch is the password, among others.
    ctypes.memset(scratch, 0, _DATA_SIZE)
    return hashed


class Hasher:
    """Hashes passwords on all cores, each once.

    The key of a password is what it belongs to: two users with the same one have two hashes.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
        self._hashes: dict[tuple[str, str], str] = {}

    def get(self, name: str, password: str) -> str | None:
        """Return the hash, or None when it has not been made yet."""
        return self._hashes.get((name, password))

    def keep(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Forget all but these pairs of name and password."""
        self._hashes = {pair: self._hashes[pair] for pair in wanted if pair in self._hashes}

    def work(self, wanted: Iterable[tuple[str, str]], within_s: float = float("inf")) -> int:
        """Hash what has no hash yet, for about ``within_s`` seconds; returns how many are left."""
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self._hashes]
        if not missing:
            return 0
        deadline_s = time.monotonic() + within_s
        todo = iter(missing)
        lock = threading.Lock()

        def work() -> None:
            while time.monotonic() < deadline_s:
                with lock:
                    pair = next(todo, None)
                if pair is None:
                    return
                self._hashes[pair] = hash_password(pair[1])

        threads = min(self._threads, len(missing))
        with ThreadPoolExecutor(threads, "hash", initializer=_be_nice) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return sum(pair not in self._hashes for pair in missing)


def _be_nice() -> None:
    # In Linux a thread has a priority of its own.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
