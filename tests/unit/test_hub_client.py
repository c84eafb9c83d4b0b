"""The hub's client: anything that is not a definite answer is unknown, never empty."""

import json

import pytest
import requests
from requests.adapters import BaseAdapter

from jhswarmd.errors import HubUnavailable
from jhswarmd.hub_client import HubClient
from jhswarmd.model import HubIdentity, HubUser

TOKEN = "t0ken-t0ken-t0ken"
SCOPES = ["list:users", "read:servers", "read:hub"]


class Canned(BaseAdapter):
    """Answers each path with (status, body); an exception is raised."""

    def __init__(self, **answers):
        super().__init__()
        self.answers = answers
        self.requests = []

    def send(self, request, **kwargs):
        self.requests.append(request)
        answer = self.answers[request.path_url.removeprefix("/hub/api/").split("?")[0]]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code, body = answer
        response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        response.request, response.url = request, request.url
        return response

    def close(self):
        pass


def make_hub(**answers):
    session = requests.Session()
    canned = Canned(**answers)
    session.mount("http://", canned)
    return HubClient("http://hub:8081/hub/api", TOKEN, session), canned


def test_the_identity_is_read_with_a_token_that_sees_everything():
    hub, _ = make_hub(
        user=(200, {"scopes": SCOPES}), jhswarmd=(200, {"hub_id": "abc", "spawns": {"r": 2}})
    )
    assert hub.read_identity() == HubIdentity("abc", {"r": 2})
    assert hub.read_identity().admins is None


def test_silent_servers_are_none_for_an_older_hub():
    hub, _ = make_hub(**{"jhswarmd/silent": (200, {"servers": ["ann"]})})
    assert hub.list_silent() == ["ann"]
    hub, _ = make_hub(**{"jhswarmd/silent": (404, {})})
    assert hub.list_silent() == []


def test_a_token_that_may_not_see_all_servers_makes_everything_unknown():
    hub, _ = make_hub(user=(200, {"scopes": ["list:users!group=x", "read:servers"]}))
    with pytest.raises(HubUnavailable, match="list:users"):
        hub.read_identity()


def known(**servers):
    return {"hub_id": "abc", "spawns": {"r": 2}, "servers": servers}


def test_a_user_and_their_servers_are_read_together_with_the_hubs_identity():
    hub, _ = make_hub(**{"jhswarmd/users/alice": (200, known(a="stop", b=None))})
    expected = HubUser("alice", {"a": "stop", "b": None})
    assert hub.read_user("alice") == (HubIdentity("abc", {"r": 2}), expected)


def test_no_such_user_is_said_in_so_many_words():
    answer = {"hub_id": "abc", "spawns": {"r": 2}, "servers": None}
    hub, _ = make_hub(**{"jhswarmd/users/bob": (200, answer)})
    assert hub.read_user("bob") == (HubIdentity("abc", {"r": 2}), None)


def test_who_asks_about_a_service_is_told_whether_any_server_is_it():
    nobody = {"hub_id": "abc", "spawns": {"r": 2}, "servers": None}
    for held, expected in ((True, HubUser("bob", {}, holds_asked=True)), (False, None)):
        hub, canned = make_hub(**{"jhswarmd/users/bob": (200, {**nobody, "holds_asked": held})})
        assert hub.read_user("bob", "s1")[1] == expected
        assert canned.requests[0].path_url.endswith("users/bob?service=s1")
    hub, _ = make_hub(**{"jhswarmd/users/bob": (200, nobody)})
    with pytest.raises(HubUnavailable):
        hub.read_user("bob", "s1")


def test_a_name_with_a_slash_does_not_lead_to_another_path():
    hub, canned = make_hub(**{"jhswarmd/users/a%2Fb": (200, known())})
    hub.read_user("a/b")
    assert canned.requests[0].path_url == "/hub/api/jhswarmd/users/a%2Fb"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((404, {"status": 404}), id="404: not allowed, or an older hub"),
        pytest.param((404, "<html>nginx</html>"), id="404 of something in between"),
        pytest.param((403, {"status": 403}), id="403"),
        pytest.param((500, {"status": 500}), id="500"),
        pytest.param((502, "<html>"), id="502"),
        pytest.param((302, ""), id="redirect to a login page"),
        pytest.param((200, "<html>"), id="HTML"),
        pytest.param((200, '{"hub_id": "al'), id="truncated JSON"),
        pytest.param((200, []), id="a list"),
        pytest.param((200, {"hub_id": "abc", "spawns": {"r": 2}}), id="no servers key"),
        pytest.param((200, {"hub_id": "abc", "servers": {}}), id="no counts"),
        pytest.param(
            (200, {"hub_id": "abc", "spawns": {"r": "2"}, "servers": {}}), id="a count is a text"
        ),
        pytest.param((200, {"servers": None}), id="no identity"),
        pytest.param((200, {**known(), "servers": []}), id="servers is a list"),
        pytest.param((200, known(a={})), id="a server in an unknown state"),
        pytest.param(requests.ConnectionError("refused"), id="refused"),
        pytest.param(requests.Timeout(), id="time-out"),
    ],
)
def test_an_unclear_answer_about_a_user_is_unknown(answer):
    hub, _ = make_hub(**{"jhswarmd/users/alice": answer})
    with pytest.raises(HubUnavailable):
        hub.read_user("alice")


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({"name": "alice"}, id="no servers key: a scope is missing"),
        pytest.param({"name": "alice", "servers": None}, id="servers is null"),
        pytest.param({"name": "alice", "servers": {"": {}}}, id="server without state"),
        pytest.param({"servers": {}}, id="no name"),
    ],
)
def test_an_unclear_item_makes_the_whole_list_unknown(item):
    hub, _ = make_hub(users=(200, {"items": [item], "_pagination": {"next": None}}))
    with pytest.raises(HubUnavailable):
        list(hub.list_users())


def page(names, following):
    items = [{"name": name, "servers": {}} for name in names]
    return {"items": items, "_pagination": {"next": following}}


def test_all_pages_are_read():
    def answer(request):
        assert request.headers["Accept"] == "application/jupyterhub-pagination+json"
        second = "offset=200" in request.url
        return (200, page(["b"], None) if second else page(["a"], {"offset": 200}))

    hub, _ = make_hub(users=answer)
    assert [user.name for user in hub.list_users()] == ["a", "b"]


def test_a_failing_second_page_makes_the_whole_list_unknown():
    def answer(request):
        return (500, "") if "offset=200" in request.url else (200, page(["a"], {"offset": 200}))

    hub, _ = make_hub(users=answer)
    with pytest.raises(HubUnavailable):
        list(hub.list_users())


def test_a_page_that_leads_back_makes_the_whole_list_unknown():
    hub, _ = make_hub(users=lambda request: (200, page(["a"], {"offset": 200})))
    with pytest.raises(HubUnavailable, match="leads back"):
        list(hub.list_users())


@pytest.mark.parametrize(
    ("answer", "has_ended"),
    [((200, {"status": 0}), True), ((200, {"status": None}), False), ((404, {}), False)],
)
def test_a_report_is_answered_with_what_the_hub_found(answer, has_ended):
    hub, _ = make_hub(**{"jhswarmd/users/alice/servers/": answer})
    assert hub.check_server("alice", "") is has_ended


def test_a_list_without_pagination_is_unknown():
    hub, _ = make_hub(users=(200, [{"name": "a", "servers": {}}]))
    with pytest.raises(HubUnavailable):
        list(hub.list_users())


def test_no_error_shows_the_token():
    def answer(request):
        return requests.ConnectionError(f"failed with {request.headers}")

    hub, _ = make_hub(**{"jhswarmd/users/alice": answer})
    with pytest.raises(HubUnavailable) as caught:
        hub.read_user("alice")
    chain = [caught.value, caught.value.__cause__]
    assert not any(TOKEN in repr(each) + str(each) for each in chain)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((200, "<html>"), id="HTML"),
        pytest.param((200, {"users": ["bob"]}), id="half an answer"),
        pytest.param((503, {}), id="503"),
    ],
)
def test_an_unclear_answer_about_removed_users_is_unknown(answer):
    hub, _ = make_hub(**{"jhswarmd/removed-users": answer})
    with pytest.raises(HubUnavailable):
        hub.enforce_removed_users()


def test_the_hub_tells_whose_accounts_are_gone():
    hub, _ = make_hub(**{"jhswarmd/removed-users": (200, {"users": ["bob"], "stops": False})})
    assert hub.enforce_removed_users() == (["bob"], False)
