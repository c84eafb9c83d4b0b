"""What ``jhswarmd users`` and ``jhswarmd up`` ask of the daemon about its accounts.

Only hashes get here: whoever asks has hashed what was typed. What is asked twice with one id is
done once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jhswarmd.accounts import edits, user_list
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.reconcile.accounts import Accounts
from jhswarmd.reconcile.users_secret import UsersSecret

#: Seconds that an answer waits for the hub's container to have the new list.
DELIVERED_WITHIN_S = 8.0


class UserCommands:
    """Answers from the control socket's threads."""

    def __init__(self, users: UsersSecret, accounts: Accounts, wake: Callable[[], None]) -> None:
        self._users = users
        self._accounts = accounts
        self._wake = wake

    def list_accounts(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return names, where each came from, and whether its password is held as a hash."""
        users = self._users
        return {
            "generation": users.number,
            "accounts": [vars(each) for each in edits.accounts(users.content, users.system_names)],
        }

    def change(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry one change out; returns what it does, and whether the hub of this node has it.

        ``action`` is ``add``, ``remove``, ``set`` or ``merge``; with ``is_dry_run`` nothing is
        changed. Raises JhswarmdError, NotNow when the same may work a moment later.
        """
        edit = self._edit(arguments)
        done: dict[str, Any] = {}

        def edit_and_tell(content: bytes) -> str:
            before = self._accounts.normalised(content)
            after = edit(before)
            done.update(vars(edits.difference(before, after)))
            return after

        if arguments.get("is_dry_run"):
            edit_and_tell(self._users.content)
            return {**done, "generation": None, "is_live": False}
        number = self._users.change(arguments["request"], edit_and_tell, arguments.get("source"))
        is_live = False
        if number is not None:
            self._wake()
            is_live = self._accounts.wait_delivered(number, DELIVERED_WITHIN_S)
        return {**done, "generation": number, "is_live": is_live}

    def _edit(self, arguments: Mapping[str, Any]) -> Callable[[str], str]:
        action, name = arguments["action"], arguments.get("name", "")
        if action in ("set", "merge"):
            given = self._checked_list(arguments["list"])
            return lambda text: given if action == "set" else edits.merge(text, given)

        def edit(text: str) -> str:
            try:
                if action == "remove":
                    return edits.remove(text, name)
                user_list.check_name(name, self._users.system_names)
                if not user_list.is_hash(arguments["hash"]):
                    raise ValueError("what came with it is no hash")
                replace = bool(arguments.get("replace"))
                return edits.add(text, name, arguments["hash"], replace=replace)
            except ValueError as exc:
                raise JhswarmdError(
                    f"The account '{name}' cannot be {'added' if action == 'add' else 'removed'}",
                    why=str(exc),
                    remedy="See 'jhswarmd users list'.",
                ) from None

        return edit

    def _checked_list(self, text: str) -> str:
        """Return the list as this container takes it. Raises UsageError for a plain password."""

        def refuse(entry: user_list.Entry) -> str:
            raise UsageError("The list that was sent holds a plain password")

        return edits.normalise(
            text.encode(), refuse, is_ours=True, system_names=self._users.system_names
        )
