"""Admins are those whom the configuration names, tried with JupyterHub's own start."""

import asyncio
import logging

import pytest
from jupyterhub import orm, roles
from jupyterhub.app import JupyterHub
from jupyterhub.auth import DummyAuthenticator
from traitlets.config import Config

from jhswarmd.hub import admins

LOG = logging.getLogger("JupyterHub")


@pytest.fixture(autouse=True)
def messages():
    """What JupyterHub has logged."""
    filters = list(LOG.filters)
    yield MESSAGES
    MESSAGES.clear()
    LOG.filters[:] = filters
    LOG.handlers[:] = [each for each in LOG.handlers if not isinstance(each, Keeping)]


MESSAGES = []


class Keeping(logging.Handler):
    def emit(self, record):
        MESSAGES.append(record.getMessage())


def start(db_url, c, *services):
    """Do what a hub does with users and roles when it starts; returns its session."""
    admins.declare(c)
    app = JupyterHub(config=c, db_url=db_url)
    app.log = LOG
    LOG.addHandler(Keeping())  # now: JupyterHub takes away what was there before
    app.init_db()
    app.authenticator = DummyAuthenticator(config=c)
    asyncio.run(app.init_role_creation())
    asyncio.run(app.init_users())
    for name in services:  # as init_services leaves them
        app.db.add(orm.Service(name=name, admin=True))
    app.db.commit()
    asyncio.run(app.init_role_assignment())
    return app.db


def named(*names):
    return Config(Authenticator={"admin_users": set(names), "allow_all": True})


@pytest.fixture
def db_url(tmp_path):
    return f"sqlite:///{tmp_path}/hub.sqlite"


def has_role(session, name):
    return orm.Role.find(session, "admin") in orm.User.find(session, name).roles


def test_an_admin_who_is_no_longer_named_is_none_any_more(db_url, messages):
    session = start(db_url, named("ann", "bob"))
    assert admins.names(session) == ["ann", "bob"]
    session = start(db_url, named("bob"))
    assert admins.names(session) == ["bob"]
    assert not has_role(session, "ann")
    assert has_role(session, "bob")
    session = start(db_url, named())
    assert admins.names(session) == []
    assert not has_role(session, "bob")
    assert "Admin role specifies static users" in "".join(messages)
    assert "Configuration specifies both" not in "".join(messages)


def test_an_admin_made_by_hand_is_one_until_the_next_start(db_url):
    session = start(db_url, named("ann"))
    carol = orm.User(name="carol", admin=True)
    session.add(carol)
    roles.assign_default_roles(session, entity=carol)
    session.commit()
    assert admins.names(session) == ["ann", "carol"]
    assert admins.names(start(db_url, named("ann"))) == ["ann"]


def test_admins_named_in_any_section_and_in_a_sites_own_role_count(db_url):
    c = named("ann")
    c.DummyAuthenticator.admin_users = {"bob"}
    assert admins.names(start(db_url, c)) == ["bob"]  # the more specific class wins
    c = named("ann")
    c.JupyterHub.load_roles = [
        {"name": "admin", "users": ["dave"]},
        {"name": "reader", "scopes": ["list:users"], "users": ["erin"]},
    ]
    session = start(db_url, c)
    assert admins.names(session) == ["ann", "dave"]
    assert orm.Role.find(session, "reader") in orm.User.find(session, "erin").roles


def test_services_that_are_admins_stay_so(db_url):
    session = start(db_url, named("ann"), "site")
    assert orm.Role.find(session, "admin") in orm.Service.find(session, "site").roles
