"""What a user may choose for a server, and what they have chosen. Pure.

What reaches the hub from a user (form, link, API) is a slug from the list of notebook profiles
and a title from the list of images, or it is refused. Nothing else of it is read, so no option of
a service can come that way. All text in the form is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jhswarmd.settings.notebook_profiles import NotebookProfile

#: What is read of a form, a link or a request.
PROFILE = "profile"
IMAGE = "image"


class OptionRefused(Exception):
    """Something was asked for that may not be chosen; the text is for the administrator."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Chosen:
    """A valid choice: an entry of the list (None: there is no list), and an image's title that
    is still to be looked up (empty: none was chosen)."""

    profile: NotebookProfile | None
    image: str = ""


def offered(
    profiles: Iterable[NotebookProfile], *, is_admin: bool, groups: Collection[str]
) -> list[NotebookProfile]:
    """Return the entries that a user may choose."""
    return [each for each in profiles if each.is_for(is_admin=is_admin, groups=groups)]


def preselected(entries: Sequence[NotebookProfile]) -> NotebookProfile:
    """Return the entry that is chosen by whoever chooses nothing."""
    return next((each for each in entries if each.default), entries[0])


def from_form(
    form: Mapping[str, Sequence[Any]], entries: Sequence[NotebookProfile]
) -> dict[str, Any]:
    """Return what a form or a link says, as JupyterHub keeps it; ``choose`` judges it.

    The form always sends an image; an entry with one of its own makes it meaningless.
    """
    said = {
        # Two values for one name are no choice: kept as they are, to be refused.
        name: form[name][0] if len(form[name]) == 1 else list(form[name])
        for name in (PROFILE, IMAGE)
        if form.get(name)
    }
    if any(entry.image for entry in entries if entry.slug == said.get(PROFILE)):
        said.pop(IMAGE, None)
    return said


def choose(
    options: Mapping[str, Any], entries: Sequence[NotebookProfile], *, has_list: bool
) -> Chosen:
    """Return what ``options`` choose among ``entries``. Raises Refused.

    ``has_list`` tells that there is a list, of which this user may choose the ``entries``; without
    one a profile means nothing, as everything else that may be sent.
    """
    profile = _choose_profile(options, entries) if has_list else None
    image = _text(options, IMAGE)
    if image and profile is not None and profile.image:
        raise OptionRefused(
            "image_refused",
            f"asked for the image {image[:100]!r}, and the notebook profile '{profile.slug}' has "
            "one of its own",
        )
    return Chosen(profile, image)


def _choose_profile(
    options: Mapping[str, Any], entries: Sequence[NotebookProfile]
) -> NotebookProfile:
    if not entries:
        raise OptionRefused(
            "no_profile", "no entry of the list of notebook profiles is for this user"
        )
    slug = _text(options, PROFILE)
    if not slug:
        return preselected(entries)
    for each in entries:
        if each.slug == slug:
            return each
    raise OptionRefused(
        "profile_refused",
        f"asked for the notebook profile {slug[:100]!r}, which is none of those they may choose: "
        f"{', '.join(each.slug for each in entries)}",
    )


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise OptionRefused(f"{name}_refused", f"sent something else than a text as {name}")
    return value


def changes(profile: NotebookProfile, spawner: Any) -> dict[str, Any]:
    """Return the options of ``spawner`` that ``profile`` sets, with their values."""
    found = {
        name: value
        for name in (
            *("mem_limit", "mem_guarantee", "cpu_limit", "cpu_guarantee", "shm_size"),
            IMAGE,
        )
        if (value := getattr(profile, name))
    }
    if profile.generic_resources:
        found["generic_resources"] = {**spawner.generic_resources, **profile.generic_resources}
    if profile.constraints:
        placement = spawner.extra_placement_spec
        given = placement.get("constraints") or ()
        found["extra_placement_spec"] = {
            **placement,
            "constraints": [*given, *profile.constraints],
        }
    return found


# ---- the form -----------------------------------------------------------------------------------


def form(entries: Sequence[NotebookProfile], images: Sequence[str], image: str) -> str:
    """Return the fields of the form as HTML; empty when there is nothing to choose.

    ``images`` are titles, of which ``image`` is chosen beforehand.
    """
    fields = []
    if len(entries) > 1:
        chosen = preselected(entries)
        radios = "".join(_radio(each, is_chosen=each is chosen) for each in entries)
        fields.append(f'<fieldset class="mb-3"><legend>Choose a server</legend>{radios}</fieldset>')
    if len(images) > 1 and not (entries and all(each.image for each in entries)):
        fields.append(_select(images, image, is_for_some=any(each.image for each in entries)))
    return "".join(fields)


def _radio(profile: NotebookProfile, *, is_chosen: bool) -> str:
    # A slug is safe as it is, by its pattern; so is what is made of numbers.
    name = f"profile-{profile.slug}"
    about = ". ".join(
        html.escape(text) for text in (profile.description.rstrip(". \n"), _sizes(profile)) if text
    )
    described = f' aria-describedby="{name}-about"' if about else ""
    return (
        '<div class="form-check">'
        f'<input class="form-check-input" type="radio" name="{PROFILE}" id="{name}" '
        f'value="{profile.slug}" required{" checked" if is_chosen else ""}{described}>'
        f'<label class="form-check-label" for="{name}">{html.escape(profile.title)}</label>'
        + (f'<div class="form-text" id="{name}-about">{about}</div>' if about else "")
        + "</div>"
    )


def _select(images: Sequence[str], chosen: str, *, is_for_some: bool) -> str:
    options = "".join(
        f'<option value="{html.escape(each)}"{" selected" if each == chosen else ""}>'
        f"{html.escape(each)}</option>"
        for each in images
    )
    hint = (
        '<div class="form-text" id="image-about">Some of the servers above have an image of their '
        "own; for those this is not used.</div>"
        if is_for_some
        else ""
    )
    described = ' aria-describedby="image-about"' if hint else ""
    return (
        '<div class="mb-3"><label class="form-label" for="image">Choose an image</label>'
        f'<select class="form-select" id="image" name="{IMAGE}"{described}>{options}</select>{hint}'
        "</div>"
    )


def _sizes(profile: NotebookProfile) -> str:
    """Return what the entry gives, in words: '4 GiB of memory, 2 processors, 1 NVIDIA-GPU'."""
    words = []
    if profile.mem_limit:
        words.append(f"{_human(profile.mem_limit)} of memory")
    if profile.cpu_limit:
        words.append(f"{profile.cpu_limit:g} processor{'' if profile.cpu_limit == 1 else 's'}")
    words += [f"{count} {kind}" for kind, count in profile.generic_resources.items()]
    return ", ".join(words)


def _human(size: int) -> str:
    for unit, name in ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"
