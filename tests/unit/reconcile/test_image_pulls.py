"""Which nodes are made to pull, when, and what is made of what they answer."""

import io
import threading

import pytest
from rich.console import Console

from jhswarmd.commands import prepull as command
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import (
    EngineConflict,
    EngineNotFound,
    EngineUnavailable,
    JhswarmdError,
    UsageError,
)
from jhswarmd.model import Node, Pull
from jhswarmd.reconcile import image_pulls
from jhswarmd.reconcile.image_pulls import Failed, ImagePulls, judge, pending
from tests.kit.fakes import FakeClock

IMAGES = ("r/a:1", "r/b:1")
N1, N2 = (Node(f"id-{name}", name, True) for name in ("n1", "n2"))


class Swarm:
    """Nodes in memory; each pulls at once what is not in ``lacks``."""

    def __init__(self, *nodes):
        self.nodes = {node.name: node for node in nodes}
        self.eligible = None  # None: all
        self.lacks = {}  # image to the engine's words
        self.slow = set()
        self.services = {}
        self.asked_registry = []
        self.created = []
        self.fails = {}  # method to an exception

    def _may_fail(self, method):
        if method in self.fails:
            raise self.fails[method]

    def list_nodes(self):
        self._may_fail("list_nodes")
        return list(self.nodes.values())

    def use_logins(self, path):
        self._may_fail("use_logins")

    def create_prepull(self, stack, name, image, constraints):
        self._may_fail("create_prepull")
        self.created.append((name, image, tuple(constraints)))
        self.services[f"id-{name}"] = (image, constraints)
        return f"id-{name}"

    def list_prepulls(self, stack):
        return list(self.services)

    def remove_service(self, service_id):
        self._may_fail("remove_service")
        if self.services.pop(service_id, None) is None:
            raise EngineNotFound("gone")

    def list_pulls(self, stack, service_ids):
        self._may_fail("list_pulls")
        return [
            self._pull(node, image)
            for image, constraints in (self.services[id_] for id_ in service_ids)
            for node in self.nodes.values()
            if node.is_usable and f"node.id != {node.id}" not in constraints
            if self.eligible is None or node.name in self.eligible
        ]

    def _pull(self, node, image):
        if node.name in self.slow:
            return Pull(node.id, image, has_ended=False)
        return Pull(node.id, image, has_ended=True, error=self.lacks.get(image, ""))

    def why_no_image(self, image):
        self.asked_registry.append(image)
        return "no basic auth credentials" if image in self.lacks else ""


class Stop(threading.Event):
    """Waiting moves the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.waited = lambda: None

    def wait(self, timeout=None):
        self.clock.now += timeout
        self.waited()
        return self.is_set()


@pytest.fixture
def swarm():
    return Swarm(N1, N2)


@pytest.fixture
def make(swarm):
    def make_prepull(images=IMAGES, may_act=lambda: True, constraints=()):
        clock = FakeClock()
        stop = Stop(clock)
        made = ImagePulls(swarm, "jupyterhub", images, constraints, may_act, stop, clock=clock)
        made.test_stop, made.test_clock = stop, clock
        return made

    return make_prepull


def looks(swarm):
    """The constraints of each look, and forget them."""
    found = [constraints for name, _, constraints in swarm.created if name.endswith("-1")]
    swarm.created.clear()
    return found


# --- which nodes ---


def test_nodes_that_take_tasks_and_were_not_seen_as_they_are_now_are_pending():
    down = Node("id-n3", "n3", False)
    labelled = Node(N2.id, "n2", True, frozenset({("gpu", "yes")}))
    assert pending([N1, down], {}) == [N1]
    assert pending([N1, labelled], {N1.id: N1, N2.id: N2}) == [labelled]


def test_each_image_is_pulled_by_all_nodes_that_may_run_notebooks(swarm, make):
    assert make(constraints=("node.role == worker",)).reconcile() == image_pulls.RESYNC_S
    wanted = ("node.role == worker",)
    assert swarm.created == [
        ("jupyterhub_prepull-1", "r/a:1", wanted),
        ("jupyterhub_prepull-2", "r/b:1", wanted),
    ]
    assert swarm.services == {}


def test_a_node_that_has_the_images_is_not_asked_again(swarm, make):
    reconciler = make()
    reconciler.reconcile()
    looks(swarm)
    reconciler.reconcile()
    assert looks(swarm) == []


@pytest.mark.parametrize("traits", [frozenset(), frozenset({("gpu", "yes")})])
def test_a_node_that_comes_back_or_changes_is_asked_alone(swarm, make, traits):
    reconciler = make()
    reconciler.reconcile()
    swarm.nodes["n2"] = Node(N2.id, "n2", False)
    reconciler.reconcile()
    looks(swarm)
    swarm.nodes["n2"] = Node(N2.id, "n2", True, traits)
    reconciler.reconcile()
    assert looks(swarm) == [(f"node.id != {N1.id}",)]


def test_all_nodes_are_asked_when_somebody_wants_it(swarm, make):
    reconciler = make()
    reconciler.reconcile()
    looks(swarm)
    number = reconciler.ask()
    reconciler.reconcile()
    assert looks(swarm) == [()]
    assert reconciler.view["answered"] == number


def test_without_the_duty_nothing_is_done_and_all_is_forgotten(swarm, make):
    active = [True]
    reconciler = make(may_act=lambda: active[0])
    reconciler.reconcile()
    looks(swarm)
    active[0] = False
    assert reconciler.reconcile() is None
    assert swarm.created == []
    active[0] = True
    reconciler.reconcile()
    assert looks(swarm) == [()]


def test_without_images_nothing_is_done(swarm, make):
    reconciler = make(images=())
    assert reconciler.reconcile() is None
    assert (swarm.created, reconciler.view["answered"]) == ([], 1)


# --- what they answer ---


def test_a_pull_in_hand_is_waited_for_and_named():
    pulls = [Pull(N1.id, "r/a:1", True), Pull(N1.id, "r/b:1", False)]
    look = judge([N1], pulls, IMAGES, 1)
    assert (dict(look.pulling), look.is_over, look.done) == ({"n1": ("r/b:1",)}, False, set())


def test_a_node_without_a_task_gets_some_seconds_and_then_may_not_run_notebooks():
    assert not judge([N1], [], IMAGES, image_pulls.NO_TASK_S - 1).is_over
    look = judge([N1], [], IMAGES, image_pulls.NO_TASK_S)
    assert (look.is_over, look.done, look.left_out) == (True, set(), {N1.id})


def test_a_pull_that_never_ends_has_failed():
    look = judge([N1], [Pull(N1.id, "r/a:1", False)], ("r/a:1",), image_pulls.PULL_WITHIN_S)
    assert look.is_over
    assert (look.failed[0].node, look.done) == ("n1", set())


def test_a_node_that_cannot_pull_is_named_with_the_words_of_engine_and_registry(
    swarm, make, caplog
):
    swarm.lacks["r/b:1"] = "No such image: r/b:1"
    reconciler = make()
    assert reconciler.reconcile() == image_pulls.RETRY_FIRST_S
    assert reconciler.reconcile() == image_pulls.RETRY_FIRST_S * 2
    words = "No such image: r/b:1 (the registry says: no basic auth credentials)"
    assert reconciler.view["failed"] == [
        vars(Failed(name, "r/b:1", words)) for name in ("n1", "n2")
    ]
    assert swarm.asked_registry == ["r/b:1", "r/b:1"]  # once a look, not for each node
    # Said once, however often it is tried.
    assert caplog.text.count("A node cannot pull") == 2
    assert reconciler.view["answered"] == 1
    del swarm.lacks["r/b:1"]
    assert reconciler.reconcile() == image_pulls.RESYNC_S
    assert reconciler.view["failed"] == []
    assert swarm.services == {}


def test_a_failure_is_said_while_another_node_still_pulls(swarm, make):
    swarm.lacks["r/a:1"], swarm.slow = "No such image", {"n2"}
    reconciler, shown = make(), []

    def see_and_go_on():
        shown.extend(each["node"] for each in reconciler.view["failed"])
        swarm.slow.clear()

    reconciler.test_stop.waited = see_and_go_on
    reconciler.reconcile()
    assert shown == ["n1"]
    assert [each["node"] for each in reconciler.view["failed"]] == ["n1", "n2"]


def test_nodes_that_may_not_run_notebooks_are_not_counted(swarm, make):
    swarm.eligible = {"n1"}
    reconciler = make()
    reconciler.reconcile()
    assert reconciler.view["nodes"] == 1
    swarm.nodes["n1"] = Node(N1.id, "n1", True, frozenset({("gpu", "yes")}))
    reconciler.reconcile()
    assert reconciler.view["nodes"] == 1
    del swarm.nodes["n1"]
    reconciler.reconcile()
    assert reconciler.view["nodes"] == 0


def test_what_keeps_failing_is_tried_ever_more_rarely(swarm, make):
    swarm.lacks["r/a:1"] = "No such image"
    reconciler = make()
    assert [reconciler.reconcile() for _ in range(9)][-1] == image_pulls.RETRY_MOST_S


def test_a_node_that_goes_down_is_no_longer_waited_for(swarm, make):
    swarm.slow = {"n2"}
    reconciler = make()

    def goes_down():
        swarm.nodes["n2"] = Node(N2.id, "n2", False)

    reconciler.test_stop.waited = goes_down
    assert reconciler.reconcile() == image_pulls.RESYNC_S
    swarm.slow.clear()
    looks(swarm)
    swarm.nodes["n2"] = N2
    reconciler.reconcile()
    assert looks(swarm) == [(f"node.id != {N1.id}",)]


# --- nothing is left behind ---


def test_a_stop_ends_the_waiting_and_leaves_nothing(swarm, make):
    swarm.slow = {"n1"}
    reconciler = make()
    reconciler.test_stop.waited = reconciler.test_stop.set
    assert reconciler.reconcile() is None
    assert (swarm.services, reconciler.view["answered"]) == ({}, 0)


def test_a_lost_duty_ends_the_waiting_and_leaves_nothing(swarm, make):
    swarm.slow, active = {"n1"}, [True]
    reconciler = make(may_act=lambda: active[0])
    reconciler.test_stop.waited = lambda: active.__setitem__(0, False)
    assert reconciler.reconcile() is None
    assert swarm.services == {}


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("list_pulls", EngineUnavailable("no answer")),
        ("create_prepull", EngineConflict("the name is taken")),
        ("use_logins", UsageError("the logins cannot be read")),
        ("list_nodes", EngineUnavailable("no answer")),
    ],
)
def test_an_error_leaves_nothing_is_shown_and_ends_with_the_next_look(swarm, make, method, error):
    reconciler = make()
    swarm.fails[method] = error
    with pytest.raises(type(error)):
        reconciler.reconcile()
    assert (swarm.services, reconciler.view["error"]) == ({}, str(error))
    swarm.fails.clear()
    reconciler.reconcile()
    assert (reconciler.view["error"], reconciler.view["answered"]) == ("", 1)


def test_what_a_killed_daemon_left_is_removed(swarm, make):
    swarm.services["id-left"] = ("r/old:1", ())
    make().reconcile()
    assert swarm.services == {}


def test_what_could_not_be_removed_is_removed_by_the_next_look(swarm, make):
    reconciler = make()
    swarm.fails["remove_service"] = EngineUnavailable("no answer")
    reconciler.reconcile()
    assert swarm.services
    swarm.fails.clear()
    reconciler.reconcile()
    assert swarm.services == {}


# --- news ---


def test_news_come_at_once_to_who_waits_for_them(swarm, make):
    reconciler = make()
    seen = reconciler.view["version"]
    got = []
    waiting = threading.Thread(target=lambda: got.append(reconciler.news(seen)))
    waiting.start()
    reconciler.reconcile()
    waiting.join(10)
    assert got[0]["version"] > seen


def test_a_daemon_that_stops_keeps_nobody_waiting(make):
    reconciler = make()
    reconciler.test_stop.set()
    reconciler.close()
    assert reconciler.news(reconciler.view["version"])["answered"] == 0


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ({"is_active": False}, "has moved to another node"),
        ({"error": "constraint refused"}, "constraint refused"),
    ],
)
def test_the_command_does_not_wait_for_what_never_comes(monkeypatch, later, words):
    view = {"asked": 2, "answered": 1, "version": 1, "is_active": True, "error": "", "pulling": ()}
    views = iter([view] + [{**view, **later}] * 3)
    monkeypatch.setattr(command.daemon_client, "call", lambda *args: next(views))
    monkeypatch.setattr(command, "ERROR_TIMEOUT_S", 0.0)
    with pytest.raises(JhswarmdError) as caught:
        command.pull(None, "jupyterhub", Progress())
    assert words in str(caught.value)


def test_an_error_that_passes_is_waited_for():
    clock = FakeClock()
    timeout = command._ErrorTimeout(clock)
    timeout.check("no answer")
    clock.now += command.ERROR_TIMEOUT_S - 1
    timeout.check("no answer")
    timeout.check("")
    clock.now += 2
    timeout.check("no answer")
    clock.now += command.ERROR_TIMEOUT_S
    with pytest.raises(JhswarmdError, match="no answer"):
        timeout.check("no answer")


NO_NODE = {
    "images": ["i"],
    "nodes": 0,
    "pulling": {},
    "failed": [],
    "error": "",
    "version": 3,
    "asked": 1,
    "answered": 1,
    "is_active": True,
}


def test_constraints_that_no_node_fulfils_are_no_success(monkeypatch):
    monkeypatch.setattr(command.daemon_client, "call", lambda *args: NO_NODE)
    with pytest.raises(JhswarmdError, match="none matches NOTEBOOK_CONSTRAINTS"):
        command.pull(None, "jupyterhub", Progress())
    text = io.StringIO()
    console = Console(file=text, soft_wrap=True)
    command.wait_after_up(None, "jupyterhub", Progress(console))
    assert "warning No ready node may run notebooks" in text.getvalue()
    assert text.getvalue().startswith("no Notebook images")


@pytest.mark.parametrize(
    "change",
    [{"nodes": 1}, {"answered": 0}, {"error": "x"}, {"is_active": False}, {"pulling": {"n": "i"}}],
)
def test_while_it_is_not_known_which_nodes_may_nothing_is_said_of_it(change):
    assert command.describe_no_node({**NO_NODE, **change}) == ""
