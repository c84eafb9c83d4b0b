"""What a line of the log looks like."""

import io
import json
import logging

import pytest

from jhswarmd import log


@pytest.fixture
def line():
    """Log one record as the daemon does with LOG_FORMAT=json, and return its lines."""

    def write(level=logging.INFO, message="%s", *args, **kw):
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(log.JsonFormatter())
        logger = logging.Logger("jhswarmd.test")  # of nobody else
        logger.addHandler(handler)
        logger.log(level, message, *args, **kw)
        return out.getvalue().splitlines()

    return write


def test_a_line_is_one_object_with_the_same_keys_always(line):
    (text,) = line(logging.WARNING, log.event("Removed", user="ann, the\nsecond"))
    entry = json.loads(text)
    assert list(entry) == ["time", "level", "logger", "message"]
    assert entry["level"] == "warning"
    assert entry["logger"] == "jhswarmd.test"
    assert entry["message"] == 'Removed user="ann, the\nsecond"'
    assert entry["time"].endswith("+00:00")


def test_an_exception_is_in_the_same_line(line):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        (text,) = line(logging.ERROR, "failed", exc_info=True)
    assert list(json.loads(text)) == ["time", "level", "logger", "message", "exception"]
    assert "ValueError: two" in json.loads(text)["exception"]


@pytest.mark.parametrize(
    ("value", "said"), [("ann", "ann"), ("", '""'), ("a b", '"a b"'), (3, "3"), (None, "None")]
)
def test_facts_follow_the_event(value, said):
    assert log.event("Happened", to=value) == f"Happened to={said}"
