"""What users choose: the form they see, what is read of it, and what a start makes of it.

What it guarantees: a choice is judged when it is sent, so that a page can say what is wrong with
it, and again at each start, whichever way it came (form, link, API, or kept by JupyterHub from an
earlier start); a choice changes what its entry of the list names, for one start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jupyterhub.utils import safe_log
from tornado import web
from traitlets import List, TraitError, default, validate

from jhswarmd.settings import notebook_profiles
from jhswarmd.settings.notebook_profiles import NotebookProfile
from jhswarmd.spawner import profile_form
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.profile_form import OptionRefused
from jhswarmd.spawner.traits import OptionsSpawner

#: What a user reads whose choice is refused.
_REFUSED = {
    "profile_refused": "The server that was asked for is not one that you may choose here. "
    "Please choose again.",
    "image_refused": "The image that was asked for is not one that may be chosen here.",
    "no_profile": "There is no server here for you to choose. Please ask your administrator.",
}


class ChoosingSpawner(OptionsSpawner):
    """A server of which its user may choose what the site allows."""

    notebook_profiles: Any = List(
        config=True,
        help="""What users choose from: a list of dicts with the keys of ``notebook_profiles.yml``
        (docs/spawner.md). Empty: no choice.""",
    )

    _before_choice: Mapping[str, Any] = MappingProxyType({})

    @validate("notebook_profiles")
    def _check_notebook_profiles(self, proposal: Any) -> list[NotebookProfile]:
        try:
            return notebook_profiles.validate(proposal.value)
        except ValueError as exc:
            raise TraitError(f"c.SwarmSpawner.notebook_profiles: {exc}") from exc

    @property
    def offered_profiles(self) -> list[NotebookProfile]:
        """The entries of the list that this user may choose."""
        if not self.notebook_profiles:
            return []
        groups = {group.name for group in self.user.groups}
        return profile_form.offered(
            self.notebook_profiles, is_admin=bool(self.user.admin), groups=groups
        )

    # ---- the form -------------------------------------------------------------------------

    @default("options_form")
    def _options_form_default(self) -> Any:
        # Called for each page: who is in which group may change while a server is known.
        return lambda spawner: spawner.render_form()

    def render_form(self) -> str:
        """Return the form in which users choose profile and image; empty: nothing to choose."""
        images = self._get_allowed_images() or {}
        # '*' allows any image, which is nothing to choose from.
        titles = [] if isinstance(images, str) else list(images)
        chosen = next((title for title in titles if images[title] == self.image), "")
        return profile_form.form(self.offered_profiles, titles, chosen)

    @default("options_from_form")
    def _options_from_form_default(self) -> Any:
        return self._read_form

    async def _read_form(self, form_data: Any) -> dict[str, Any]:
        """Return what a form or a link chooses. Raises StartFailed, which their page shows."""
        options = profile_form.from_form(form_data, self.offered_profiles)
        await self._judge(options)
        return options

    async def options_from_query(self, query_data: Any) -> dict[str, Any]:
        """Return what a link chooses. Raises StartFailed where a form can show it.

        Where there is nothing to choose JupyterHub would go on without what was asked for, and
        without a word; so there the start refuses it.
        """
        if self.render_form():
            return await self._read_form(query_data)
        return profile_form.from_form(query_data, self.offered_profiles)

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        # ``start`` does. Without a hook here JupyterHub warns that nobody reads them.
        return lambda spawner, user_options: None

    # ---- a start --------------------------------------------------------------------------

    async def _apply_choice(self) -> NotebookProfile | None:
        """Take what the user has chosen, and return the entry of the list, None without a list.

        JupyterHub keeps a choice for starts without one. One that is refused is forgotten, or
        else whoever chose what is no longer there could not start at all.
        """
        try:
            profile, image = await self._judge(self.user_options)
        except StartFailed:
            self.orm_spawner.user_options = {}
            self.user.db.commit()
            raise
        changes = profile_form.changes(profile, self) if profile else {}
        if image:
            changes["image"] = image
        self._before_choice = {name: getattr(self, name) for name in changes}
        for name, value in changes.items():
            setattr(self, name, value)
        return profile

    def clear_state(self) -> None:
        """Forget what a choice has set: the next start may be of another."""
        super().clear_state()
        for name, value in self._before_choice.items():
            setattr(self, name, value)
        self._before_choice = {}

    async def _judge(self, options: Mapping[str, Any]) -> tuple[NotebookProfile | None, str]:
        """Return the entry and the image that are chosen (empty: none). Raises StartFailed."""
        try:
            chosen = profile_form.choose(
                options, self.offered_profiles, has_list=bool(self.notebook_profiles)
            )
            image = await self._allowed_image(chosen.image) if chosen.image else ""
        except OptionRefused as exc:
            raise StartFailed(
                _REFUSED[exc.reason],
                reason=exc.reason,
                detail=f"{self._log_name} {safe_log(str(exc))}",
                status_code=400,
            ) from exc
        return chosen.profile, image

    async def _allowed_image(self, title: str) -> str:
        """Return the image of this title on the list. Raises Refused."""
        try:
            return str(await self.check_allowed(title))
        except web.HTTPError as exc:
            raise OptionRefused(
                "image_refused",
                f"asked for the image {title[:100]!r}, which is not among "
                "c.SwarmSpawner.allowed_images (SINGLE_USER_IMAGES)",
            ) from exc
