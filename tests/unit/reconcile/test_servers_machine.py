"""Whatever engine, hub and people do: what the hub knows stays, and what it does not know goes.

Hypothesis makes up the order of everything: starts and stops, failed ones, answers that are lost,
hubs that are ill, wiped or restored, events that are never heard, looks at one service or at all.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from jhswarmd.errors import EngineUnavailable, HubUnavailable
from jhswarmd.model import HubUser
from jhswarmd.reconcile.orphans import FLOOR, SHARE, WINDOW_S
from jhswarmd.reconcile.servers import Servers
from tests.kit.factories import make_identity, make_service
from tests.kit.fakes import FakeClock, FakeEngine, FakeHub

OTHER_HUB = "b" * 32
USERS = [f"user{number}" for number in range(6)]


class LossyEngine(FakeEngine):
    """Applies a removal, refuses it, or applies it and loses the answer."""

    mishap = ""

    def remove_service(self, service_id):
        if self.mishap == "refused":
            raise EngineUnavailable("500")
        super().remove_service(service_id)
        if self.mishap == "answer lost":
            raise EngineUnavailable("the answer was lost")


class ServersMachine(RuleBasedStateMachine):
    """One hub, one engine, one daemon that may be begun anew, and somebody else's services."""

    services = Bundle("services")

    def __init__(self):
        super().__init__()
        self.engine = LossyEngine()
        self.hub = FakeHub(identity=make_identity(spawns={}))
        self.clock = FakeClock()
        self.approved = set()
        self.made = 0
        self.starts = 1
        self.begin_daemon()
        remove = self.engine.remove_service

        def checked(service_id):
            self.check_removal(self.engine.services[service_id])
            remove(service_id)

        self.engine.remove_service = checked

    def check_removal(self, service):
        """Look at what must hold in the moment in which a removal is asked for."""
        user = self.hub.users.get(service.user)
        assert service.id not in self.hub.held_services, "the hub has it under another name"
        assert service.hub_id == self.hub.identity.hub_id, "another hub's"
        assert user is None or service.server not in user.servers, "the hub knows it"
        if service.id not in self.approved:
            assert self.hub.identity.has_counted(service.count), "younger than the database"
            self.ordinary[service.id] = self.clock.now
            # What the engine refused to remove is still there, and may be known again.
            recent = [
                at
                for id_, at in self.ordinary.items()
                if self.clock.now - at < WINDOW_S
                and (id_ == service.id or id_ not in self.engine.services)
            ]
            most = max(FLOOR, SHARE * (len(self.engine.services) + len(recent)))
            assert len(recent) <= most, "too many at once"

    @rule()
    def begin_daemon(self):
        """Begin a daemon that remembers nothing; nor does it know of any approval."""
        self.daemon = Servers(self.engine, self.hub, "jupyterhub", lambda: True, self.clock)
        self.approved.clear()
        self.ordinary = {}

    @rule(target=services, user=st.sampled_from(USERS), pending=st.sampled_from([None, "spawn"]))
    def start(self, user, pending):
        """Record a server, and make its service."""
        self.made += 1
        begun = f"start-{self.starts}"
        spawns = {**self.hub.identity.spawns}
        spawns[begun] = spawns.get(begun, 0) + 1
        self.hub.identity = make_identity(hub_id=self.hub.identity.hub_id, spawns=spawns)
        service = make_service(
            id=f"s{self.made}",
            user=user,
            hub_id=self.hub.identity.hub_id,
            count=f"{begun}.{spawns[begun]}",
        )
        self.hub.users[user] = HubUser(user, {"": pending})
        self.engine.services[service.id] = service
        return service.id

    @rule()
    def start_everybody(self):
        """Begin a busy day."""
        for user in USERS:
            self.start(user, None)

    @rule()
    def forget_everybody(self):
        """Make the hub forget all its users, whoever did that."""
        self.hub.users.clear()
        self.hub.held_services.clear()

    @rule(user=st.sampled_from(USERS))
    def rename(self, user):
        """Rename a user whose servers run on: their labels say the old name."""
        for id_, service in self.engine.services.items():
            if self.knows(service) and service.user == user:
                self.hub.held_services.add(id_)
        self.hub.users.pop(user, None)

    @rule(target=services, user=st.sampled_from(USERS))
    def foreign_hand(self, user):
        """Make a service of another hub."""
        self.made += 1
        service = make_service(id=f"s{self.made}", user=user, hub_id=OTHER_HUB, count="start-1.1")
        self.engine.services[service.id] = service
        return service.id

    @rule(user=st.sampled_from(USERS), pending=st.sampled_from([None, "stop", "check"]))
    def resolve(self, user, pending):
        """Let what is pending for a server resolve, or begin."""
        if user in self.hub.users and self.hub.users[user].servers:
            self.hub.users[user] = HubUser(user, {"": pending})

    @rule(user=st.sampled_from(USERS), has_failed=st.booleans())
    def stop(self, user, has_failed):
        """Forget a server; a failed stop leaves its service behind."""
        self.hub.users[user] = HubUser(user, {})
        if not has_failed:
            for id_, service in list(self.engine.services.items()):
                if service.user == user and service.hub_id == self.hub.identity.hub_id:
                    del self.engine.services[id_]

    @rule(user=st.sampled_from(USERS))
    def delete_user(self, user):
        """Make the hub forget a user."""
        self.hub.users.pop(user, None)

    @rule(forgotten=st.integers(1, 3))
    def restore_database(self, forgotten):
        """Put an older copy back: the last spawns never were. The hub starts with it."""
        begun = f"start-{self.starts}"
        spawns = {**self.hub.identity.spawns}
        spawns[begun] = max(0, spawns.get(begun, 0) - forgotten)
        self.starts += 1
        self.hub.identity = make_identity(hub_id=self.hub.identity.hub_id, spawns=spawns)
        for service in self.engine.services.values():
            if not self.hub.identity.has_counted(service.count):
                self.hub.users.pop(service.user, None)
                self.hub.held_services.discard(service.id)

    @rule(is_ill=st.booleans())
    def sicken_hub(self, is_ill):
        """Make the hub give no definite answer, or well again."""
        self.hub.unknown = is_ill

    @rule(mishap=st.sampled_from(["", "refused", "answer lost"]))
    def sicken_engine(self, mishap):
        """Say what becomes of removals."""
        self.engine.mishap = mishap

    @rule(seconds=st.integers(1, 90))
    def wait(self, seconds):
        """Let time pass."""
        self.clock.now += seconds

    @rule()
    def approve(self):
        """Allow what is held."""
        self.approved |= self.daemon.view.held.keys()
        self.daemon.approve()

    @rule(service_id=services)
    def look_at_one(self, service_id):
        """Hear an event."""
        self.try_to(lambda: self.daemon.reconcile_one(service_id))

    @rule()
    def look_at_all(self):
        """Do a full pass."""
        self.try_to(self.daemon.reconcile_all)
        if not self.hub.unknown and not self.engine.mishap:
            # What was approved and is known by now needs another approval when it is forgotten.
            known = {id_ for id_, it in self.engine.services.items() if self.knows(it)}
            self.approved -= known | self.hub.held_services

    def knows(self, service):
        """Tell whether the hub has the service's server, under the name that its labels say."""
        user = self.hub.users.get(service.user)
        is_its_own = service.hub_id == self.hub.identity.hub_id
        return is_its_own and user is not None and service.server in user.servers

    @precondition(lambda self: not self.hub.unknown and not self.engine.mishap)
    @rule()
    def converge(self):
        """With both sides well, and everything approved, the two sides agree in the end."""
        self.try_to(self.daemon.reconcile_all)
        self.approve()
        self.daemon.reconcile_all()
        hub_id = self.hub.identity.hub_id
        for id_, service in self.engine.services.items():
            is_known = self.knows(service) or id_ in self.hub.held_services
            assert service.hub_id != hub_id or is_known
        assert self.daemon.view.held == {}

    def try_to(self, act):
        """Do something that may fail for the reasons that there are."""
        try:
            act()
        except (HubUnavailable, EngineUnavailable):
            assert self.hub.unknown or self.engine.mishap

    @invariant()
    def each_removal_is_told_once(self):
        """The daemon tells of no removal twice."""
        told = [removal.id for removal in self.daemon.view.removals]
        assert len(told) == len(set(told))


TestServers = ServersMachine.TestCase
TestServers.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
