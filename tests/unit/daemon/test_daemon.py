"""The small parts of the daemon: control socket, worker, leader, and the whole of it on fakes."""

import socket
import threading
import time

import pytest

from jhswarmd import metrics
from jhswarmd.api import control_socket
from jhswarmd.api.web_server import Web, address_in
from jhswarmd.daemon import run, servers_controller
from jhswarmd.daemon.controller import Controller
from jhswarmd.daemon.leader import Leader
from jhswarmd.daemon.reflector import ACCOUNTS, ALL_SERVERS, ENDED, IMAGE_PULLS, LEADER, Key
from jhswarmd.daemon.run import Daemon
from jhswarmd.daemon.workqueue import WorkQueue
from jhswarmd.errors import HubUnavailable, JhswarmdError
from jhswarmd.settings.settings import Settings
from tests.kit.factories import make_service, make_user
from tests.kit.fakes import FakeClock, FakeEngine, FakeHub
from tests.kit.wait import wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def server(path):
    made = control_socket.Control(
        {"ping": lambda arguments: {"pong": arguments.get("n", 1)}, "fail": fail, "break": break_},
        path,
    )
    made.start()
    yield made
    made.close()


def fail(arguments):
    raise JhswarmdError("It cannot be done", why="it is Monday", remedy="Wait.")


def break_(arguments):
    raise RuntimeError(f"nobody foresaw {arguments}")


def test_a_command_is_answered_with_its_arguments_or_without(server, path):
    assert control_socket.ask("ping", path=path) == {"pong": 1}
    assert control_socket.ask("ping", {"n": "x" * 500_000}, path) == {"pong": "x" * 500_000}


def test_an_error_reaches_who_asked_with_its_reason_and_remedy(server, path):
    with pytest.raises(JhswarmdError) as caught:
        control_socket.ask("fail", path=path)
    error = caught.value
    assert (error.what, error.why, error.remedy) == ("It cannot be done", "it is Monday", "Wait.")


def test_an_unforeseen_error_repeats_no_argument(server, path, caplog):
    with pytest.raises(JhswarmdError, match="RuntimeError") as caught:
        control_socket.ask("break", {"password": "hunter2"}, path)
    assert "hunter2" not in str(caught.value) + caught.value.remedy + caplog.text
    assert "RuntimeError" in caplog.text


def test_an_unknown_command_is_refused(server, path):
    with pytest.raises(JhswarmdError, match="does not support this command"):
        control_socket.ask("nosuch", path=path)


def test_a_line_that_is_no_json_is_refused_and_the_next_one_answered(server, path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"rubbish\n")
        assert b"does not support" in connection.makefile("rb").readline()
    assert control_socket.ask("ping", path=path) == {"pong": 1}


def test_only_the_owner_may_use_the_socket(server, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_socket_left_by_a_killed_daemon_is_taken_over(server, path):
    successor = control_socket.Control({"ping": lambda _: {"pong": 2}}, path)
    successor.start()
    assert control_socket.ask("ping", path=path) == {"pong": 2}
    successor.close()


def test_no_daemon_is_said_with_a_remedy(path):
    with pytest.raises(JhswarmdError) as caught:
        control_socket.ask("ping", path=path)
    assert caught.value.remedy


def test_the_daemon_on_the_node_of_the_hubs_newest_task_is_active():
    engine = FakeEngine()
    leader = Leader(engine, "jupyterhub")
    assert leader.refresh()
    engine.hub_node = "node-2"
    assert not leader.refresh()
    engine.hub_node = None
    assert not leader.refresh()


class Recorder:
    """A reconcile function that fails as often as it is told, and says when it was called."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = []
        self.ended = threading.Event()

    def __call__(self, key):
        self.calls.append(key)
        if self.failures:
            raise self.failures.pop(0)
        self.ended.set()


@pytest.mark.parametrize("failure", [HubUnavailable("ill"), RuntimeError("a bug")])
def test_a_pass_that_fails_is_repeated_and_the_worker_lives_on(failure):
    recorder = Recorder(failure)
    worker = Controller("test", WorkQueue(), recorder)
    worker.start()
    worker.queue.put("key")
    assert recorder.ended.wait(5)
    worker.queue.close()
    assert worker.join(5)
    assert recorder.calls == ["key", "key"]
    assert worker.last_error == ""


def make_daemon(engine, hub, **keys):
    engine.events = lambda since_s, until_s: iter(())
    return Daemon(Settings(**keys), engine, hub)


def waiting(daemon, kind="servers"):
    """What waits for a worker and is due, in order."""
    queue = daemon._workers[kind].queue
    return [queue.get() for _ in range(queue.count_due())]


def test_a_standby_removes_nothing():
    engine = FakeEngine(make_service(id="s1"))
    engine.hub_node = "node-2"
    daemon = make_daemon(engine, FakeHub())
    daemon.server_keys.reconcile(Key("server", "s1"))
    assert daemon.server_keys.reconcile(ALL_SERVERS) > 0
    assert engine.removed == []


def test_a_hub_that_comes_to_this_node_makes_its_daemon_act_at_once():
    engine = FakeEngine(make_service(id="s1"))
    engine.hub_node = "node-2"
    daemon = make_daemon(engine, FakeHub())
    daemon.server_keys.reconcile(LEADER)
    engine.hub_node = "node-1"
    daemon.server_keys.reconcile(LEADER)
    assert ALL_SERVERS in waiting(daemon)


@pytest.mark.parametrize("key", [LEADER, ALL_SERVERS])
def test_whoever_takes_the_duty_sees_to_the_images_on_the_nodes(key):
    daemon = make_daemon(FakeEngine(), FakeHub())
    queue = daemon._workers["prepull"].queue
    daemon.server_keys.reconcile(key)
    assert (len(queue), queue.get() if len(queue) else None) == (1, IMAGE_PULLS)
    daemon.server_keys.reconcile(key)
    assert len(queue) == 0


def test_a_standby_makes_no_node_pull_and_says_who_does():
    engine = FakeEngine()
    engine.hub_node = "node-2"
    daemon = make_daemon(engine, FakeHub(), single_user_image="r/x:1")
    daemon.leader.refresh()
    # The fake engine has no nodes to list: that would fail.
    assert daemon._reconcile_prepull(IMAGE_PULLS) is None
    with pytest.raises(JhswarmdError, match="stands by"):
        daemon.ask_prepull({"anew": True})
    assert daemon.ask_prepull({})["is_active"] is False


def test_a_key_wakes_the_worker_of_its_kind_and_an_orphan_goes():
    engine = FakeEngine(make_service(id="s1"))
    gone = threading.Event()
    remove = engine.remove_service
    engine.remove_service = lambda id_: (remove(id_), gone.set())
    daemon = make_daemon(engine, FakeHub())
    for worker in daemon._workers.values():
        worker.start()
    daemon.leader.refresh()
    daemon.wake(Key("server", "s1"))
    assert gone.wait(5)
    daemon.stop()
    assert engine.removed == ["s1"]
    assert daemon.snapshot()["servers"]["removals"][0]["user"] == "alice"


def test_a_burst_of_events_costs_one_full_pass_instead_of_a_look_at_each(monkeypatch):
    monkeypatch.setattr(servers_controller, "BURST_PAUSE_S", 0.0)
    engine, hub = FakeEngine(), FakeHub()
    daemon = make_daemon(engine, hub)
    daemon.leader.refresh()
    for number in range(5000):
        daemon.wake(Key("server", f"s{number}"))
    assert len(daemon.server_keys.queue) == 1
    engine.services["s1"] = make_service(id="s1")  # what an event that was dropped is about
    daemon.server_keys.reconcile(daemon.server_keys.queue.get())
    assert engine.removed == ["s1"]
    assert engine.calls.count("list_notebooks") == 1
    # An event that comes after the pass has begun is looked at.
    daemon.wake(Key("server", "late"))
    assert waiting(daemon) == [ENDED, Key("server", "late")]


def test_many_pending_servers_lead_to_one_more_pass_and_are_no_burst():
    services = [
        make_service(id=f"s{n}", user=f"user{n}") for n in range(servers_controller.BURST + 100)
    ]
    users = [make_user(f"user{n}", default="check") for n in range(servers_controller.BURST + 100)]
    engine = FakeEngine(*services)
    daemon = make_daemon(engine, FakeHub(*users))
    queue = daemon.server_keys.queue
    daemon.server_keys.reconcile(ALL_SERVERS)
    assert waiting(daemon) == [ENDED]
    assert len(queue) == 1
    for number in range(servers_controller.BURST + 100):
        queue.put(Key("server", f"s{number}"), 10)
    daemon.wake(Key("server", "new"))
    assert queue.get() == Key("server", "new")


def test_the_duty_that_a_removal_has_found_is_begun_with_a_full_pass():
    engine = FakeEngine()
    daemon = make_daemon(engine, FakeHub())
    daemon.leader.refresh()  # as before a removal
    daemon.server_keys.reconcile(LEADER)
    assert ALL_SERVERS in waiting(daemon)


def test_an_instance_that_loses_its_duty_holds_nothing_any_more():
    engine = FakeEngine(*(make_service(id=f"s{n}", user=f"user{n}") for n in range(4)))
    daemon = make_daemon(engine, FakeHub())
    daemon.server_keys.reconcile(ALL_SERVERS)
    assert len(daemon.snapshot()["servers"]["held"]) == 4
    engine.hub_node = "node-2"
    daemon.server_keys.reconcile(LEADER)
    assert daemon.snapshot()["servers"]["held"] == []
    assert metrics.REGISTRY.get_sample_value("jhswarmd_orphans_held") == 0


def test_a_standby_reports_a_death_that_it_alone_hears_of_and_removes_nothing():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    engine.hub_node = "node-2"
    engine.ended.add("s1")
    daemon = make_daemon(engine, hub)
    daemon.server_keys.reconcile(Key("ended", "s1"))
    for key in waiting(daemon):
        daemon.server_keys.reconcile(key)
    assert hub.reports == [("alice", "")]
    assert (engine.removed, daemon.snapshot()["servers"]["held"]) == ([], [])


def test_a_service_that_is_left_when_the_hub_has_given_up_its_server_goes_at_once():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user())
    engine.ended.add("s1")
    daemon = make_daemon(engine, hub)
    daemon.leader.refresh()
    daemon.server_keys.reconcile(Key("ended", "s1"))
    assert hub.reports == [("alice", "")]
    daemon.server_keys.reconcile(daemon.server_keys.queue.get())
    assert engine.removed == ["s1"]


def test_a_task_that_ends_on_another_node_is_reported_once_by_who_has_the_duty():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    daemon = make_daemon(engine, hub)
    daemon.server_keys.reconcile(ALL_SERVERS)
    assert daemon.server_keys.reconcile(ENDED) == servers_controller.ENDED_EVERY_S
    engine.ended.add("s1")
    daemon.server_keys.reconcile(ENDED)
    assert Key("server", "s1") in waiting(daemon)
    daemon.server_keys.reconcile(ENDED)
    assert hub.reports == [("alice", "")]
    engine.hub_node = "node-2"
    engine.calls.clear()
    daemon.server_keys.reconcile(LEADER)
    assert daemon.server_keys.reconcile(ENDED) > servers_controller.ENDED_EVERY_S
    assert engine.calls == []


@pytest.mark.parametrize(
    ("took_s", "again_s"),
    [
        (0.001, servers_controller.ENDED_EVERY_S),
        (0.1, 10.0),
        (29.0, servers_controller.MAX_ENDED_S),
    ],
)
def test_the_next_look_for_ended_tasks_comes_later_when_it_is_costly_but_comes(took_s, again_s):
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    clock = FakeClock()
    daemon = make_daemon(engine, hub)
    daemon.servers._clock = clock
    daemon.server_keys.reconcile(ALL_SERVERS)
    listed, report = engine.list_ended, hub.check_server

    def list_slowly(stack):
        clock.now += took_s
        return listed(stack)

    def report_slowly(user, server):
        clock.now += 60
        return report(user, server)

    engine.list_ended, hub.check_server = list_slowly, report_slowly
    engine.ended.add("s1")
    assert daemon.server_keys.reconcile(ENDED) == pytest.approx(again_s)
    assert hub.reports == [("alice", "")]


def test_a_hub_that_answers_again_leads_to_a_full_pass():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    daemon = make_daemon(engine, hub)
    daemon.server_keys.reconcile(ALL_SERVERS)
    daemon.server_keys.reconcile(Key("server", "s1"))
    assert ALL_SERVERS not in waiting(daemon)
    hub.unknown = True
    with pytest.raises(HubUnavailable):
        daemon.server_keys.reconcile(Key("server", "s1"))
    assert ALL_SERVERS not in waiting(daemon)
    hub.unknown = False
    daemon.server_keys.reconcile(Key("server", "s1"))
    assert waiting(daemon) == [ALL_SERVERS]
    daemon.server_keys.reconcile(ALL_SERVERS)
    assert ALL_SERVERS not in waiting(daemon)


def test_a_standby_for_whom_the_hub_answers_again_does_not_go_round_in_circles():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    daemon = make_daemon(engine, hub)
    daemon.server_keys.reconcile(ALL_SERVERS)
    hub.unknown = True
    with pytest.raises(HubUnavailable):
        daemon.server_keys.reconcile(Key("server", "s1"))
    hub.unknown = False
    daemon.servers.reconcile_one("s1")  # the pass is due, and with it the duty goes
    engine.hub_node = "node-2"
    for key in [ALL_SERVERS, *waiting(daemon)]:
        daemon.server_keys.reconcile(key)
    for key in waiting(daemon):
        daemon.server_keys.reconcile(key)
    assert waiting(daemon) == []


def test_who_asks_for_a_look_at_everything_gets_it_from_the_daemon_itself():
    daemon = make_daemon(FakeEngine(), FakeHub())
    daemon.look_at_everything({})
    assert waiting(daemon) == [ALL_SERVERS]


def test_a_daemon_one_of_whose_threads_dies_does_not_go_on_without_it(monkeypatch, caplog):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back afterwards
    stop = threading.Event()
    dead = run.watch_threads(stop)
    thread = threading.Thread(target=lambda: break_("it"), name="reflector")
    thread.start()
    assert stop.wait(5)
    assert dead == ["reflector"]
    assert "The thread reflector has ended" in caplog.text


def test_the_interval_between_full_passes_grows_with_what_one_costs():
    daemon = make_daemon(FakeEngine(), FakeHub())
    assert daemon.server_keys.resync_interval_s() == Settings().resync_interval_s
    daemon.servers.view.look_took_s = 5.0
    assert daemon.server_keys.resync_interval_s() == 500
    daemon.servers.view.look_took_s = 60.0
    assert daemon.server_keys.resync_interval_s() == servers_controller.MAX_RESYNC_S
    daemon.servers.view.look_took_s = 5.0
    daemon._reflector.is_connected = True
    daemon.leader.refresh()
    daemon.servers.view.last_pass_s = time.time() - 1000
    assert daemon.unready() == ""


def test_a_full_pass_leads_to_another_look_at_what_is_pending():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default="stop"))
    daemon = make_daemon(engine, hub)
    daemon.server_keys.reconcile(ALL_SERVERS)
    hub.users = {}
    for worker in daemon._workers.values():
        worker.start()
    wait_until(lambda: engine.removed == ["s1"], 5)
    daemon.stop()


@pytest.fixture
def site():
    reasons = []
    made = Web("127.0.0.1", lambda: "".join(reasons), port=0)
    made.reasons = reasons
    yield made
    made._server.server_close()


def ask(site, path):
    """Call the application as a server would, without one."""
    said = {}
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    body = site._answer(environ, lambda status, headers: said.update(status=status))
    return said["status"][:3], b"".join(body).decode()


def test_ready_says_why_it_is_not(site):
    assert ask(site, "/ready") == ("200", "ready\n")
    site.reasons.append("it gets no events from the engine")
    assert ask(site, "/ready") == ("503", "it gets no events from the engine\n")
    assert ask(site, "/health")[0] == "200"


def test_metrics_tell_of_duty_and_orphans(site):
    Leader(FakeEngine(), "jupyterhub").refresh()
    status, text = ask(site, "/metrics")
    assert status == "200"
    assert "jhswarmd_duty 1.0" in text
    assert "jhswarmd_orphans_removed_total" in text


def test_other_paths_are_not_found(site):
    assert ask(site, "/secrets")[0] == "404"


def test_the_address_is_the_one_in_the_control_subnet():
    assert address_in("127.0.0.0/8") == "127.0.0.1"
    with pytest.raises(JhswarmdError, match=r"192\.0\.2\.128/32"):
        address_in("192.0.2.128/32")


def test_a_standby_is_ready_without_a_full_pass_and_the_active_one_is_not():
    daemon = make_daemon(FakeEngine(), FakeHub())
    daemon._reflector.is_connected = True
    assert daemon.unready() == ""
    daemon.leader.refresh()
    assert "full pass" in daemon.unready()
    daemon.servers.reconcile_all()
    assert daemon.unready() == ""


def test_an_approval_on_trial_tells_what_is_held_and_why_and_approves_nothing():
    engine = FakeEngine(*(make_service(id=f"s{n}", user=f"user{n}") for n in range(4)))
    daemon = make_daemon(engine, FakeHub())
    daemon.servers.reconcile_all()
    held = daemon.approve({"dry_run": True})["held"]
    assert [(each["user"], each["why"]) for each in held] == [
        (f"user{n}", "too many at once") for n in range(4)
    ]
    daemon.servers.reconcile_all()
    assert engine.removed == []
    daemon.approve({})
    daemon.servers.reconcile_all()
    assert sorted(engine.removed) == ["s0", "s1", "s2", "s3"]


def test_a_container_of_the_hub_whose_event_was_lost_gets_its_accounts_all_the_same():
    daemon = make_daemon(FakeEngine(), FakeHub())
    again_s = daemon._reconcile_accounts(ACCOUNTS)
    assert again_s == Settings().resync_interval_s
