"""What the engine's answers mean: gone, taken, worth a retry, or no use."""

import pytest
import requests
import urllib3
from docker.errors import APIError, DockerException, InvalidArgument

from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    EngineOutOfSequence,
    EngineUnavailable,
)

NOT_MANAGER = "This node is not a swarm manager."


def answer(status, words):
    response = requests.Response()
    response.status_code = status
    return APIError("failed", response=response, explanation=words)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (answer(404, "no such service"), EngineNotFound),
        (answer(409, "name conflicts"), EngineConflict),
        (answer(500, "rpc error: update out of sequence"), EngineOutOfSequence),
        (answer(500, "rpc error: The swarm does not have a leader"), EngineUnavailable),
        (answer(503, f"{NOT_MANAGER} Use docker swarm init"), EngineError),
        (answer(503, f"{NOT_MANAGER} Manager is being prepared"), EngineUnavailable),
        (answer(400, "invalid spec"), EngineError),
        (InvalidArgument("bad"), EngineError),
        (DockerException("Error while fetching server API version"), EngineUnavailable),
        (requests.ConnectionError("refused"), EngineUnavailable),
        (requests.ReadTimeout("read"), EngineUnavailable),
        (urllib3.exceptions.ProtocolError("cut"), EngineUnavailable),
        (BrokenPipeError("pipe"), EngineUnavailable),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_it_means(raised, expected):
    with pytest.raises(EngineError) as caught, engine_errors("look"):
        raise raised
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised


def test_what_is_no_answer_of_the_engine_is_left_alone():
    with pytest.raises(KeyError), engine_errors("look"):
        raise KeyError("a bug")
