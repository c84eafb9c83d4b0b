"""What users may choose: nothing outside the list reaches a service, however it is sent."""

from __future__ import annotations

import asyncio
import json
import logging
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub import orm
from jupyterhub.user import User
from pydantic import TypeAdapter, ValidationError
from traitlets import TraitError

from jhswarmd.settings import notebook_profiles
from jhswarmd.settings.notebook_profiles import NotebookProfile
from jhswarmd.settings.settings import Settings
from jhswarmd.spawner import profile_form
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.swarm import SwarmSpawner
from tests.unit.spawner.test_swarm import make_spawner

SMALL = {"slug": "small", "title": "Small", "mem_limit": 2**30, "cpu_limit": 1}
GPU = {
    "slug": "gpu",
    "title": "GPU",
    "image": "reg/torch:4",
    "mem_limit": "8G",
    "mem_guarantee": "4G",
    "shm_size": "2G",
    "generic_resources": {"gpu": 1},
    "constraints": ["node.labels.gpu == true"],
}
FOR_ADMINS = {"slug": "admin", "title": "Admin", "admins_only": True}
FOR_GROUP = {"slug": "vision", "title": "Vision", "groups": ["vision"]}

ALL = [SMALL, GPU, FOR_ADMINS, FOR_GROUP]
IMAGES = {"Python": "reg/py:1", "R & <Julia>": "reg/r:1"}

#: What a choice may change.
CHANGEABLE = (
    *("image", "mem_limit", "mem_guarantee", "cpu_limit", "cpu_guarantee", "shm_size"),
    *("generic_resources", "extra_placement_spec"),
)


def profiles(*entries: dict[str, Any]) -> list[NotebookProfile]:
    return TypeAdapter(list[NotebookProfile]).validate_python(list(entries))


def spawner_of(
    *entries: dict[str, Any], admin: bool = False, groups: tuple[str, ...] = (), **options: Any
) -> SwarmSpawner:
    spawner = make_spawner(notebook_profiles=list(entries), image="reg/default:1", **options)
    spawner.user.admin = admin
    spawner.user.groups = [SimpleNamespace(name=name) for name in groups]
    return spawner


def choose(spawner: SwarmSpawner, options: dict[str, Any]) -> None:
    """Let the user start a server with these options, as far as the choice goes."""
    spawner.orm_spawner.user_options = spawner.user_options = options
    spawner.clear_state()
    asyncio.run(spawner._apply_choice())


def read_form(spawner: SwarmSpawner, form: dict[str, list[str]]) -> dict[str, Any]:
    return dict(asyncio.run(spawner.run_options_from_form(form)))


def options_of(spawner: SwarmSpawner) -> dict[str, Any]:
    return {name: getattr(spawner, name) for name in CHANGEABLE}


# ---- what is chosen -----------------------------------------------------------------------------


def test_a_profile_sets_what_it_names_and_leaves_the_rest() -> None:
    spawner = spawner_of(
        SMALL,
        GPU,
        mem_limit="1G",
        cpu_limit=2,
        generic_resources={"licence": 1},
        extra_placement_spec={"constraints": ["node.role == worker"], "preferences": []},
    )
    choose(spawner, {"profile": "gpu"})
    assert options_of(spawner) == {
        "image": "reg/torch:4",
        "mem_limit": 8 * 2**30,
        "mem_guarantee": 4 * 2**30,
        "cpu_limit": 2,
        "cpu_guarantee": None,
        "shm_size": 2 * 2**30,
        "generic_resources": {"licence": 1, "gpu": 1},
        "extra_placement_spec": {
            "constraints": ["node.role == worker", "node.labels.gpu == true"],
            "preferences": [],
        },
    }


def test_nothing_of_a_choice_is_left_at_the_next_start() -> None:
    spawner = spawner_of(SMALL, GPU, mem_limit="3G", allowed_images=IMAGES)
    before = options_of(spawner)
    choose(spawner, {"profile": "gpu"})
    spawner.clear_state()
    assert options_of(spawner) == before
    choose(spawner, {"profile": "small", "image": "Python"})
    assert (spawner.image, spawner.mem_limit, spawner.shm_size) == ("reg/py:1", 2**30, None)
    assert not spawner.generic_resources


@pytest.mark.parametrize("options", [{}, {"profile": None}, {"profile": ""}])
def test_whoever_chooses_nothing_gets_the_default(options: dict[str, Any]) -> None:
    spawner = spawner_of(SMALL, {**GPU, "default": True})
    choose(spawner, options)
    assert spawner.image == "reg/torch:4"


def test_without_a_default_it_is_the_first_that_the_user_may_choose() -> None:
    spawner = spawner_of(FOR_ADMINS, FOR_GROUP, SMALL)
    choose(spawner, {})
    assert spawner.mem_limit == 2**30


@pytest.mark.parametrize(
    ("admin", "groups", "slugs"),
    [
        (False, (), ["small", "gpu"]),
        (False, ("vision", "other"), ["small", "gpu", "vision"]),
        (False, ("Vision",), ["small", "gpu"]),
        (True, (), ["small", "gpu", "admin", "vision"]),
    ],
)
def test_entries_are_offered_to_those_they_are_for(
    admin: bool, groups: tuple[str, ...], slugs: list[str]
) -> None:
    spawner = spawner_of(*ALL, admin=admin, groups=groups)
    assert [each.slug for each in spawner.offered_profiles] == slugs
    form = spawner.render_form()
    assert [slug for slug in ("small", "gpu", "admin", "vision") if f'"{slug}"' in form] == slugs


def test_groups_and_admins_are_those_of_the_hubs_own_database() -> None:
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add_all([orm.User(name="ann"), orm.Group(name="vision")])
    session.commit()
    spawner = spawner_of(*ALL)
    spawner.user = user = User(session.query(orm.User).one(), {})
    assert [each.slug for each in spawner.offered_profiles] == ["small", "gpu"]
    user.sync_groups(["vision"])
    assert [each.slug for each in spawner.offered_profiles] == ["small", "gpu", "vision"]
    user.admin = True
    assert len(spawner.offered_profiles) == len(ALL)
    session.close()


@pytest.mark.parametrize("slug", ["admin", "vision", "nosuch", "GPU", "small ", "gpu\n", "0"])
def test_what_is_not_on_the_users_list_is_refused_and_forgotten(slug: str) -> None:
    spawner = spawner_of(*ALL)
    before = options_of(spawner)
    with pytest.raises(StartFailed, match="profile_refused") as caught:
        choose(spawner, {"profile": slug})
    assert caught.value.status_code == 400
    assert options_of(spawner) == before
    assert spawner.orm_spawner.user_options == {}


def test_who_may_choose_nothing_starts_nothing() -> None:
    spawner = spawner_of(FOR_ADMINS)
    with pytest.raises(StartFailed, match="no_profile"):
        choose(spawner, {})


def test_a_profile_from_when_there_was_a_list_hinders_nobody() -> None:
    spawner = spawner_of()
    choose(spawner, {"profile": "gpu"})
    assert spawner.image == "reg/default:1"


def test_a_profile_with_an_image_leaves_no_choice_of_image() -> None:
    spawner = spawner_of(SMALL, GPU, allowed_images=IMAGES)
    with pytest.raises(StartFailed, match="image_refused"):
        choose(spawner, {"profile": "gpu", "image": "Python"})
    # The form always sends one.
    sent = read_form(spawner, {"profile": ["gpu"], "image": ["Python"]})
    choose(spawner, sent)
    assert spawner.image == "reg/torch:4"


def test_an_image_from_its_list_goes_with_a_profile_that_has_none() -> None:
    spawner = spawner_of(SMALL, GPU, allowed_images=IMAGES)
    choose(spawner, {"profile": "small", "image": "R & <Julia>"})
    assert (spawner.image, spawner.mem_limit) == ("reg/r:1", 2**30)


# ---- nothing else gets in -----------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
known = st.sampled_from(
    ["profile", "image", "mem_limit", "cmd", "environment", "extra_container_spec", "volumes"]
)
likely = st.sampled_from(["small", "gpu", "admin", "Python", "evil/image", ["gpu"], ["gpu", "x"]])


@given(options=st.dictionaries(known | st.text(max_size=9), likely | json_values, max_size=5))
def test_whatever_is_sent_starts_an_entry_of_the_list_or_nothing(options: dict[str, Any]) -> None:
    spawner = spawner_of(SMALL, GPU, FOR_ADMINS, allowed_images=IMAGES)
    everything = {name: spawner.trait_values()[name] for name in spawner.trait_names(config=True)}
    try:
        choose(spawner, options)
    except StartFailed:
        assert options_of(spawner) == {name: everything[name] for name in CHANGEABLE}
    else:
        assert (spawner.image, spawner.mem_limit) in {
            ("reg/torch:4", 8 * 2**30),
            *((image, 2**30) for image in ("reg/default:1", *IMAGES.values())),
        }
    after = spawner.trait_values()
    assert {name: after[name] for name in everything if name not in CHANGEABLE} == {
        name: value for name, value in everything.items() if name not in CHANGEABLE
    }


@given(form=st.dictionaries(known | st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3)))
def test_a_form_leaves_no_more_than_a_profile_and_an_image(form: dict[str, list[str]]) -> None:
    try:
        sent = read_form(spawner_of(SMALL, GPU), form)
    except StartFailed:
        return
    assert sent.keys() <= {"profile", "image"}
    json.dumps(sent)


def test_two_profiles_at_once_are_no_choice() -> None:
    with pytest.raises(StartFailed, match="profile_refused"):
        read_form(spawner_of(SMALL, GPU), {"profile": ["small", "gpu"]})


@pytest.mark.parametrize("form", [{"profile": ["admin"]}, {"image": ["evil/image"]}])
def test_a_form_that_chooses_what_is_not_on_the_list_is_refused_at_once(form: Any) -> None:
    with pytest.raises(StartFailed, match="_refused"):
        read_form(spawner_of(SMALL, FOR_ADMINS, allowed_images=IMAGES), form)


def read_link(spawner: SwarmSpawner, query: dict[str, list[str]]) -> dict[str, Any]:
    return dict(asyncio.run(spawner.options_from_query(query)))


def test_a_link_to_what_is_not_on_the_list_is_refused_by_the_form_or_by_the_start() -> None:
    with pytest.raises(StartFailed, match="profile_refused"):
        read_link(spawner_of(SMALL, GPU, FOR_GROUP), {"profile": ["vision"]})
    # With nothing to choose there is no form, and JupyterHub would start the default in its place.
    spawner = spawner_of(SMALL, FOR_GROUP)
    asked = read_link(spawner, {"profile": ["vision"]})
    assert asked == {"profile": "vision"}
    with pytest.raises(StartFailed, match="profile_refused"):
        choose(spawner, asked)
    assert read_link(spawner_of(SMALL, GPU), {"profile": ["gpu"]}) == {"profile": "gpu"}


def test_jupyterhub_does_not_warn_that_nobody_reads_the_choice() -> None:
    spawner = spawner_of(SMALL)
    spawner.log = Mock(spec=logging.Logger)
    asyncio.run(spawner._run_apply_user_options({"profile": "small"}))
    assert not spawner.log.warning.called


# ---- the form -----------------------------------------------------------------------------------


class Form(HTMLParser):
    """The elements of a form: tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_form_has_the_default_chosen_and_a_label_and_a_description_for_each() -> None:
    spawner = spawner_of(SMALL, {**GPU, "default": True, "description": "For training."})
    form = Form(spawner.render_form())
    small, gpu = form.of("input")
    assert ("checked" in small, "checked" in gpu) == (False, True)
    assert [each["name"] for each in (small, gpu)] == ["profile", "profile"]
    assert [each["for"] for each in form.of("label")] == [small["id"], gpu["id"]]
    ids = {attributes.get("id") for _, attributes in form.tags}
    assert {small["aria-describedby"], gpu["aria-describedby"]} <= ids
    assert "1 GiB of memory, 1 processor" in form.text
    assert "For training. 8 GiB of memory, 1 gpu" in form.text


def test_the_image_of_the_site_is_chosen_beforehand() -> None:
    form = Form(spawner_of(allowed_images={**IMAGES, "Ours": "reg/default:1"}).render_form())
    chosen = [each["value"] for each in form.of("option") if "selected" in each]
    assert chosen == ["Ours"]
    assert form.of("select")[0]["name"] == "image"


@pytest.mark.parametrize(
    ("options", "is_empty"),
    [
        ({}, True),
        ({"allowed_images": {"Python": "reg/py:1"}}, True),
        ({"allowed_images": "*"}, True),
        ({"allowed_images": lambda spawner: None}, True),
        ({"allowed_images": lambda spawner: ["a", "b"]}, False),
        ({"notebook_profiles": [SMALL]}, True),
        ({"notebook_profiles": [SMALL, FOR_ADMINS]}, True),
        ({"notebook_profiles": [SMALL, GPU]}, False),
        ({"notebook_profiles": [SMALL], "allowed_images": IMAGES}, False),
        ({"notebook_profiles": [GPU], "allowed_images": IMAGES}, True),
    ],
)
def test_there_is_a_form_only_where_there_is_something_to_choose(
    options: dict[str, Any], is_empty: bool
) -> None:
    spawner = spawner_of(*options.pop("notebook_profiles", ()), **options)
    assert (asyncio.run(spawner.get_options_form()) == "") is is_empty


texts = st.text(min_size=1, max_size=20)


@given(title=texts, description=st.text(max_size=20), image=texts, kind=texts)
def test_no_text_of_the_list_becomes_html(
    title: str, description: str, image: str, kind: str
) -> None:
    entry = {
        "slug": "x",
        "title": f"{title}<a>&\"'",
        "description": f"{description}<script>",
        "generic_resources": {f'{kind}<b c="': 1},
    }
    form = Form(profile_form.form(profiles(SMALL, entry), [image, image + '"><i>'], image))
    allowed = {"fieldset", "legend", "div", "input", "label", "select", "option"}
    assert {tag for tag, _ in form.tags} <= allowed
    assert len(form.of("input")) == 2
    values = [each["value"] for each in form.of("option")]
    assert values == [image, image + '"><i>']


# ---- the list itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slug": "Big"}, "slug"),
        ({"slug": 'x" onclick='}, "slug"),
        ({"title": ""}, "title"),
        ({"mem_limit": "lots"}, "512M or 2G"),
        ({"mem_limit": "1M"}, "greater than or equal to 4194304"),
        ({"mem_limit": True}, "valid integer"),
        ({"cpu_limit": "2"}, "valid number"),
        ({"cpu_limit": 0}, "greater than or equal"),
        ({"cpu_limit": float("inf")}, "finite"),
        ({"default": "yes"}, "valid boolean"),
        ({"generic_resources": {"gpu": 0}}, "greater than 0"),
        ({"generic_resources": {"gpu": "1"}}, "valid integer"),
        ({"constraints": "node.role == worker"}, "valid tuple"),
        ({"constraints": ["node.labels.a = b"]}, "placement constraints such as"),
        ({"groups": [""]}, "at least 1 character"),
        ({"groups": ["a"], "admins_only": True}, "exclude each other"),
        ({"environment": {"A": "b"}}, "Extra inputs"),
        ({"image": "a b"}, "pattern"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        profiles({**SMALL, **change})
    with pytest.raises(TraitError, match=r"c\.SwarmSpawner\.notebook_profiles"):
        spawner_of({**SMALL, **change})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([SMALL, {**GPU, "slug": "small"}], "'small' is there twice"),
        ([SMALL, {**GPU, "title": "Small"}], "'Small' is there twice"),
        ([{**SMALL, "default": True}, {**GPU, "default": True}], "only one entry"),
        (
            [{"slug": f"s{n}", "title": f"{n}", "description": "x" * 999} for n in range(70)],
            "characters",
        ),
    ],
)
def test_entries_that_do_not_go_together_are_refused(entries: Any, words: str) -> None:
    (fault,) = notebook_profiles.faults(profiles(*entries))
    assert words in fault.message
    with pytest.raises(TraitError, match="notebook_profiles"):
        spawner_of(*entries)


def test_the_list_survives_the_way_to_the_hub() -> None:
    written = Settings(notebook_profiles=tuple(profiles(*ALL)))
    environ = written.to_environ()
    assert Settings.from_environ(environ) == written
    assert Settings.from_environ({}).notebook_profiles == ()
    assert "\n" not in environ["NOTEBOOK_PROFILES"]


@pytest.mark.parametrize(
    ("keys", "entry"),
    [
        ({"MEM_LIMIT": "1G"}, {"mem_guarantee": "2G"}),
        ({"MEM_GUARANTEE": "2G"}, {"mem_limit": "1G"}),
        ({"CPU_LIMIT": "1"}, {"cpu_guarantee": 1.5}),
        ({}, {"cpu_limit": 1, "cpu_guarantee": 1.5}),
    ],
)
def test_more_cannot_be_guaranteed_than_allowed(keys: dict[str, str], entry: Any) -> None:
    listed = notebook_profiles.spell(profiles({"slug": "x", "title": "X", **entry}))
    with pytest.raises(ValueError, match=r"for 'x' (MEM|CPU)_GUARANTEE is more than"):
        Settings.from_environ({**keys, "NOTEBOOK_PROFILES": listed})


def test_every_image_of_a_profile_is_known_once() -> None:
    settings = Settings.from_environ(
        {
            "SINGLE_USER_IMAGE": "reg/default:1",
            "SINGLE_USER_IMAGES": "Python=reg/py:1; Default=reg/default:1",
            "NOTEBOOK_PROFILES": notebook_profiles.spell(profiles(SMALL, GPU)),
        }
    )
    assert settings.notebook_images == ("reg/default:1", "reg/py:1", "reg/torch:4")
