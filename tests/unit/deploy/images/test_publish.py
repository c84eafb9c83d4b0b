"""Tags, the choice of the bases, and building and pushing."""

import hashlib
import io
import itertools
import tarfile
from types import SimpleNamespace

import docker.errors
import pytest
import requests
from rich.console import Console

from jhswarmd import assets
from jhswarmd.deploy.images import bases, publish, recipes
from jhswarmd.deploy.machine import host
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import EngineUnavailable, JhswarmdError
from jhswarmd.settings.settings import Settings

DEBIAN = bases.Debian("bookworm", ("deb http://mirror.example/debian bookworm main",))


def api_error(status, explanation):
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError(explanation, response=response, explanation=explanation)


def digest_of(content):
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


class FakeEngine:
    """Holds images locally and in a registry, by content; records its requests."""

    def __init__(self):
        self.here = {}
        self.registry = {}
        self.outside = set()
        self.tags = {}
        self.calls = []
        self.contents = itertools.count()
        self.build_output = [{"stream": "Step 1/1"}]
        self.push_output = [{"status": "Pushed"}]
        self.registry_error = None
        self.images = self
        self.api = self

    def get(self, reference):
        if reference not in self.here:
            raise api_error(404, "No such image")
        content = self.here[reference]
        names = {name.rpartition(":")[0] for name, held in self.here.items() if held == content}
        return SimpleNamespace(
            id=f"sha256:{reference}",
            attrs={"RepoDigests": [f"{name}@{digest_of(content)}" for name in names]},
        )

    def inspect_distribution(self, reference):
        if self.registry_error:
            raise self.registry_error
        if reference.startswith("quay.io/"):
            if reference not in self.outside:
                raise api_error(500, "no such host")
            return {}
        if reference in self.tags:
            return {"Descriptor": {"digest": self.tags[reference]}}
        name, _, digest = reference.partition("@")
        repository = name.rpartition(":")[0]
        held = self.registry.get(repository, {})
        assert digest, "a tag says nothing"
        if digest not in held:
            raise api_error(404, "manifest unknown")
        return {}

    def build(self, *, fileobj, tag, buildargs, **options):
        self.calls.append(("build", tag.split("/")[-1].split(":")[0]))
        self.built = SimpleNamespace(context=fileobj, args=buildargs, options=options)
        if not any("error" in line for line in self.build_output):
            self.here[tag] = f"content {next(self.contents)}"
        return iter(self.build_output)

    def tag(self, reference, repository, tag, force):
        self.here[f"{repository}:{tag}"] = self.here[reference]

    def push(self, repository, tag, **_):
        self.calls.append(("push", repository.split("/")[-1]))
        lines = list(self.push_output)
        if not any("error" in line for line in lines):
            digest = digest_of(self.here[f"{repository}:{tag}"])
            self.registry.setdefault(repository, {})[digest] = tag
            lines.append({"aux": {"Tag": tag, "Digest": digest}})
        return iter(lines)

    def pull(self, repository, tag, **_):
        self.calls.append(("pull", f"{repository}:{tag}"))
        self.here[f"{repository}:{tag}"] = f"{repository}:{tag}"
        return iter([{"status": "Downloading"}])

    def import_image_from_file(self, filename, repository, tag):
        self.calls.append(("import", repository))
        self.here[f"{repository}:{tag}"] = "debian"
        return '{"status": "sha256:1"}\n'

    def made(self):
        calls, self.calls = self.calls, []
        return sorted(calls)

    def forget(self, *built):
        """Lose all built images, locally and in the registry."""
        for reference in built:
            name = reference.partition("@")[0]
            self.registry.pop(name.rpartition(":")[0], None)
            self.here.pop(name, None)
            self.here.pop(name.partition("/")[2], None)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def progress():
    return Progress(Console(file=io.StringIO()))


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A Debian machine without certificates of its own; mmdebstrap is installed and works."""
    ran = []
    monkeypatch.setattr(bases, "CA_CERTIFICATES", tmp_path / "ca-certificates")
    monkeypatch.setattr(bases, "_read_host_debian", lambda _progress: DEBIAN)
    monkeypatch.setattr(bases.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(host, "run_shown", lambda command, *_a, **_k: ran.append(command))
    for name in ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.swapcase(), raising=False)
    # For the choice of the builder see test_builders.py.
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    return ran


def community(engine):
    settings = Settings()
    engine.outside = {settings.hub_base_image, settings.singleuser_base_image}


def tag_of(reference):
    return reference.partition("@")[0]


BUILT_AND_PUSHED = sorted(
    (verb, name) for verb in ("build", "push") for name in ("hub", "proxy", "singleuser")
)


# -- tags ----------------------------------------------------------------------------------------


def recipe(**changes):
    return recipes.Recipe(**{"name": "hub", "base": "base:1", "context": {"a": b"1"}, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "base:2"},
        {"context": {"a": b"2"}},
        {"context": {"b": b"1"}},
        {"context": {"a": b"1", "b": b""}},
        {"context": {"a1": b""}},
    ],
    ids=["another base", "an edited file", "a renamed file", "a new file", "a name that grew"],
)
def test_a_tag_changes_with(changes):
    assert recipe(**changes).digest != recipe().digest


def test_a_tag_does_not_depend_on_the_order_of_files():
    one = recipe(context={"a": b"1", "b": b"2"})
    other = recipe(context={"b": b"2", "a": b"1"})
    assert one.reference("r:5000") == other.reference("r:5000")


def test_a_context_is_reproducible_with_executable_scripts():
    context = {"entrypoint": b"#!/bin/sh\n", "a/file": b"text"}
    assert (
        recipes._tar(context).getvalue() == recipes._tar(dict(reversed(context.items()))).getvalue()
    )
    with tarfile.open(fileobj=recipes._tar(context)) as archive:
        modes = {it.name: oct(it.mode) for it in archive}
    assert modes == {"a/file": "0o644", "entrypoint": "0o755"}


def test_leftovers_of_python_and_editors_are_not_part_of_an_image(tmp_path):
    for name in ("a.py", "__pycache__/a.pyc", ".a.swp", "_assets/env/x", "sub/b.py", "b.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    assert set(recipes.read_files(tmp_path)) == {"a.py", "sub/b.py"}


def test_our_dockerfiles_copy_only_files_of_their_context():
    same = bases.Bases("base:1", "base:1", None, {})
    for each in publish._recipes(same, Settings()):
        lines = each.context["Dockerfile"].decode().splitlines()
        copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
        sources = [
            it for arguments in copied if not arguments[0].startswith("--") for it in arguments
        ]
        for source in sources:
            assert any(name == source or name.startswith(source) for name in each.context), source


def test_our_dockerfiles_work_in_the_classic_builder():
    for path in assets.DOCKERFILES.glob("*/Dockerfile"):
        text = path.read_text()
        assert "--mount" not in text
        assert "<<" not in text


# -- bases ---------------------------------------------------------------------------------------


def test_auto_uses_the_community_images_if_they_can_be_pulled(engine, progress, machine):
    community(engine)
    built = publish.build(engine, Settings(), progress)
    pulled = [("pull", Settings().hub_base_image), ("pull", Settings().singleuser_base_image)]
    assert engine.made() == sorted(BUILT_AND_PUSHED + pulled)
    assert "quay.io" in built.base
    assert machine == []


def test_auto_builds_a_debian_if_they_cannot(engine, progress, machine):
    built = publish.build(engine, Settings(), progress)
    assert engine.made() == sorted([*BUILT_AND_PUSHED, ("import", "jhswarmd/debian")])
    assert "bookworm" in built.base
    assert machine[0][0] == "mmdebstrap"
    assert machine[0][-1] == DEBIAN.sources[0]


@pytest.mark.parametrize("kind", ["debian", "community"])
def test_auto_keeps_its_choice(engine, progress, machine, kind):
    if kind == "community":
        community(engine)
    first = publish.build(engine, Settings(), progress)
    engine.made()
    engine.outside = set() if kind == "community" else {Settings().hub_base_image}
    assert publish.build(engine, Settings(), progress).hub == first.hub
    engine.forget(first.hub, first.proxy, first.singleuser)
    again = publish.build(engine, Settings(), progress)
    assert tag_of(again.hub) == tag_of(first.hub)
    assert engine.made() == BUILT_AND_PUSHED


def test_community_without_a_pull_says_why(engine, progress):
    with pytest.raises(JhswarmdError) as raised:
        publish.build(engine, Settings(base_images="community"), progress)
    assert "no such host" in raised.value.why
    assert "BASE_IMAGES=debian" in raised.value.remedy


def test_no_base_at_all_is_an_error_with_a_remedy(engine, progress, monkeypatch):
    monkeypatch.setattr(bases, "_read_host_debian", lambda _progress: None)
    with pytest.raises(JhswarmdError) as raised:
        publish.build(engine, Settings(), progress)
    assert raised.value.remedy
    with pytest.raises(JhswarmdError):
        publish.build(engine, Settings(base_images="debian"), progress)


def test_a_base_registry_that_never_answers_times_out(engine, progress, monkeypatch):
    monkeypatch.setattr(bases, "BASE_ANSWER_S", 0.01)
    released = bases.threading.Event()
    ask = engine.inspect_distribution
    monkeypatch.setattr(
        engine,
        "inspect_distribution",
        lambda name: released.wait(10) if name.startswith("quay.io") else ask(name),
    )
    built = publish.build(engine, Settings(), progress)
    released.set()
    assert "bookworm" in built.base


def test_certificates_of_the_machine_go_into_the_base_and_its_tag(engine, progress, tmp_path):
    plain = publish.build(engine, Settings(), progress)
    engine.made()
    (tmp_path / "ca-certificates").mkdir()
    (tmp_path / "ca-certificates" / "site.crt").write_text("PEM")
    (tmp_path / "ca-certificates" / "README").write_text("not one")
    inspected = publish.build(engine, Settings(), progress)
    assert ("build", "base") in engine.made()
    assert inspected.hub != plain.hub


def test_only_the_systems_own_apt_sources_are_used(mocker):
    lines = (
        "http://m/debian/|bookworm|main|Debian",
        "http://m/debian/|bookworm|contrib|Debian",
        "http://m/debian-security/|bookworm-security|main|Debian",
        "https://third.example/debian/|bookworm|stable|Docker",
        "https://third.example/|nodistro|main|.",
        "http://m/debian/|bookworm-backports|main|Debian Backports",
    )
    done = SimpleNamespace(stdout="\n".join(lines))
    mocker.patch.object(bases.subprocess, "run", return_value=done)
    assert bases._apt_sources("debian", "bookworm") == (
        "deb http://m/debian-security/ bookworm-security main",
        "deb http://m/debian/ bookworm main contrib",
    )


def test_without_package_lists_apt_sources_are_unknown_not_none(mocker):
    done = SimpleNamespace(stdout="http://m/debian/|bookworm|main|$(ORIGIN)\n")
    mocker.patch.object(bases.subprocess, "run", return_value=done)
    assert bases._apt_sources("debian", "bookworm") is None


# -- building and pushing ------------------------------------------------------------------------


def test_a_second_run_does_nothing(engine, progress):
    first = publish.build(engine, Settings(), progress)
    engine.made()
    second = publish.build(engine, Settings(), progress)
    assert engine.made() == []
    assert (second.hub, second.proxy, second.singleuser) == (
        first.hub,
        first.proxy,
        first.singleuser,
    )
    assert second.built == ()


def test_an_image_built_but_not_pushed_is_pushed(engine, progress):
    first = publish.build(engine, Settings(), progress)
    engine.made()
    del engine.registry[tag_of(first.proxy).rpartition(":")[0]]
    publish.build(engine, Settings(), progress)
    assert engine.made() == [("push", "proxy")]


def test_images_are_deployed_by_tag_and_digest(engine, progress):
    built = publish.build(engine, Settings(), progress)
    for reference in (built.hub, built.proxy, built.singleuser):
        tag, _, digest = reference.partition("@")
        assert digest == digest_of(engine.here[tag])


def test_a_tag_that_others_have_moved_changes_nothing(engine, progress):
    first = publish.build(engine, Settings(), progress)
    engine.made()
    # Pushed by another machine, and pulled here since.
    for reference in (first.hub, first.proxy, first.singleuser):
        repository, _, tag = tag_of(reference).rpartition(":")
        engine.registry[repository][digest_of("evil")] = tag
        engine.here[tag_of(reference)] = "evil"
    again = publish.build(engine, Settings(), progress)
    assert [it for it in engine.made() if it[0] == "build"] == []
    assert (again.hub, again.proxy, again.singleuser) == (first.hub, first.proxy, first.singleuser)


def test_a_tag_that_is_already_in_the_registry_does_not_count_as_ours(engine, progress):
    planned = publish.plan(engine, Settings())
    repository, _, tag = planned.hub.rpartition(":")
    engine.registry[repository] = {digest_of("evil"): tag}
    engine.here[planned.hub] = "evil"
    built = publish.build(engine, Settings(), progress)
    assert ("build", "hub") in engine.made()
    assert built.hub != f"{planned.hub}@{digest_of('evil')}"


def test_a_push_of_another_image_than_the_built_one_is_refused(engine, progress, monkeypatch):
    push = engine.push

    def moved(repository, tag, **options):
        engine.here[f"{repository}:{tag}"] = "evil"
        return push(repository, tag, **options)

    monkeypatch.setattr(engine, "push", moved)
    with pytest.raises(JhswarmdError, match="cannot be pushed") as raised:
        publish.build(engine, Settings(), progress)
    assert "not what it built" in raised.value.why


def test_another_manager_uses_the_deployed_images(engine, progress):
    first = publish.build(engine, Settings(), progress)
    engine.made()
    engine.here.clear()
    deployed = [first.hub, first.proxy, first.singleuser]
    again = publish.build(engine, Settings(), progress, deployed)
    assert engine.made() == []
    assert again.hub == first.hub
    # The older deployment's tags prove nothing.
    publish.build(engine, Settings(), progress, [tag_of(it) for it in deployed])
    assert ("build", "hub") in engine.made()


def test_a_notebook_image_of_the_site_is_not_built(engine, progress):
    built = publish.build(engine, Settings(single_user_image="site/lab:1"), progress)
    assert built.singleuser == "site/lab:1"
    assert ("build", "singleuser") not in engine.made()
    assert publish.list_missing(built) == []


def test_a_failed_build_shows_its_last_lines_and_is_not_pushed(engine, progress):
    engine.build_output = [{"stream": "Step 1/2"}, {"error": "\x1b[91mapt-get returned 100"}]
    with pytest.raises(JhswarmdError) as raised:
        publish.build(engine, Settings(), progress)
    assert raised.value.why == "apt-get returned 100"
    assert raised.value.output == ("Step 1/2",)
    assert raised.value.remedy
    assert not any(verb == "push" for verb, _ in engine.made())


def test_a_refused_push_is_an_error(engine, progress):
    engine.push_output = [{"status": "Preparing"}, {"error": "no basic auth credentials"}]
    with pytest.raises(JhswarmdError, match="cannot be pushed") as raised:
        publish.build(engine, Settings(), progress)
    assert "no basic auth credentials" in raised.value.why


def test_an_unreachable_registry_is_not_an_empty_one(engine, progress):
    publish.build(engine, Settings(), progress)
    engine.made()
    engine.registry_error = api_error(500, "connection refused")
    with pytest.raises(EngineUnavailable) as raised:
        publish.build(engine, Settings(), progress)
    assert "REGISTRY" in raised.value.remedy
    assert engine.made() == []


def test_a_plan_changes_nothing_and_lists_missing_images(engine, progress):
    planned = publish.plan(engine, Settings())
    assert publish.list_missing(planned) == [planned.hub, planned.proxy, planned.singleuser]
    assert engine.made() == []
    built = publish.build(engine, Settings(), progress)
    assert publish.list_missing(publish.plan(engine, Settings())) == []
    assert publish.plan(engine, Settings()).hub == built.hub


def test_proxies_and_indexes_reach_the_build_but_no_login(engine, progress, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://user:word@npm.example/")
    plain = publish.plan(engine, Settings())
    publish.build(engine, Settings(), progress)
    assert engine.built.args["https_proxy"] == "http://proxy.example:3128"
    assert engine.built.args["PIP_INDEX_URL"] == "https://index.example/simple"
    assert "NPM_CONFIG_REGISTRY" not in engine.built.args
    monkeypatch.delenv("PIP_INDEX_URL")
    assert tag_of(publish.plan(engine, Settings()).hub) == tag_of(plain.hub)


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("registry.example", "https://registry.example"),
        ("registry.example:5000", "https://registry.example:5000"),
    ],
)
def test_only_a_registry_on_this_machine_is_used_without_tls(registry, url):
    assert publish.base_url(registry) == url
    assert publish.session(registry).trust_env == url.startswith("https")


def test_images_of_the_site_are_pinned_if_the_profile_says_so(engine):
    tags = ("site/lab:1", "site/r:4", "site/gpu:2")
    engine.tags = {tag: digest_of(tag) for tag in tags}
    keys = {
        "single_user_image": tags[0],
        "single_user_images": {"R": tags[1], "Fixed": f"site/r@{digest_of('r')}"},
        "notebook_profiles": [{"title": "GPU", "slug": "gpu", "image": tags[2]}],
    }
    settings = Settings(**keys, pin_images=True)
    pinned = publish.pinned(engine, settings)
    assert pinned.single_user_image == f"site/lab:1@{digest_of('site/lab:1')}"
    assert pinned.single_user_images["R"] == f"site/r:4@{digest_of('site/r:4')}"
    assert pinned.single_user_images["Fixed"] == settings.single_user_images["Fixed"]
    assert pinned.notebook_profiles[0].image == f"site/gpu:2@{digest_of('site/gpu:2')}"
    assert Settings.from_environ(pinned.to_environ()) == pinned
    assert publish.pinned(engine, Settings(**keys)) == Settings(**keys)


def test_an_image_that_cannot_be_pinned_is_reported(engine):
    engine.registry_error = api_error(500, "no such host")
    with pytest.raises(JhswarmdError, match="site/lab:1 cannot be pinned") as raised:
        publish.pinned(engine, Settings(single_user_image="site/lab:1", pin_images=True))
    assert "PIN_IMAGES=false" in raised.value.remedy
    assert publish.pinned(engine, Settings(pin_images=True)).single_user_image == ""
