"""The words of a task whose image could not be pulled: engines up to 29.5 have one text, later ones
repeat the registry's, the network's or their own (sources: jhswarmd/spawner/pull_errors.py)."""

from __future__ import annotations

import pytest

from jhswarmd.spawner.pull_errors import Cause, cause
from jhswarmd.spawner.tasks import StartFailure, read_task, start_failure

#: Words of engines 20.10 to 29, of both image stores, as a task carries them.
WORDS = {
    Cause.unknown: [
        "No such image: localhost:5000/x:1",
        "No such image: r.example/x:1@sha256:0123",
    ],
    Cause.missing: [
        "manifest for r.example/x:1 not found: manifest unknown: manifest unknown",
        "manifest unknown: manifest tagged by \"1\" is not found",
        "name unknown: repository name not known to registry",
        "failed to resolve reference \"r.example/x:1\": r.example/x:1: not found",
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
        "no matching manifest for linux/amd64 in the manifest list entries: no match for platform "
        "in manifest: not found",
        "error from registry: manifest unknown - unknown tag=1",
        "repository r.example/x not found: name unknown: repository name not known to registry",
        "image manifest does not exist for tag or digest \"1\"",
        "failed to copy: httpReadSeeker: failed open: could not fetch content descriptor sha256:0a "
        "(application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found",
    ],
    Cause.refused: [
        "unauthorized: authentication required",
        "denied: requested access to the resource is denied",
        "Head \"http://localhost:5000/v2/x/manifests/1\": no basic auth credentials",
        "pull access denied for r.example/x, repository does not exist or may require 'docker "
        "login'",
        "pull access denied for x, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied",
        "failed to resolve reference \"r.example/x:1\": failed to authorize: failed to fetch "
        "anonymous token: unexpected status from GET request to https://r.example/token?scope=a: "
        "401 Unauthorized",
        "failed to resolve reference \"r.example/x:1\": unexpected status from HEAD request to "
        "https://r.example/v2/x/manifests/1: 403 Forbidden",
        "failed to resolve reference \"r.example/x:1\": pull access denied, repository does not "
        "exist or may require authorization: authorization failed: no basic auth credentials",
        "error from registry: authentication required",
        "error from registry: authentication required - access to the resource",
        "error from registry: requested access to the resource is denied",
        "authentication required - incorrect username or password",
        "requested access to the resource is denied - not a member",
        "unknown: failed to resolve reference \"r.example/x:1\": failed to authorize: failed to "
        "fetch oauth token: unexpected status from POST request to https://r.example/token: 401 "
        "Unauthorized",
        "Get \"https://r.example/v2/x/manifests/1\": unauthorized: incorrect username or password",
    ],
    Cause.unreachable: [
        "Get \"https://r.example/v2/\": dial tcp: lookup r.example on 10.0.0.2:53: no such host",
        "Get \"http://localhost:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
        "Get \"https://r.example/v2/\": http: server gave HTTP response to HTTPS client",
        "Get \"https://r.example/v2/\": tls: failed to verify certificate: x509: certificate "
        "signed by unknown authority",
        "Get \"https://r.example/v2/\": net/http: TLS handshake timeout",
        "Get \"https://r.example/v2/\": context deadline exceeded",
        "failed to resolve reference \"r.example/x:1\": failed to do request: Head "
        "\"https://r.example/v2/x/manifests/1\": dial tcp 192.0.2.1:443: i/o timeout",
        "failed to resolve reference \"r.example/x:1\": unexpected status from HEAD request to "
        "https://r.example/v2/x/manifests/1: 503 Service Unavailable",
        "toomanyrequests: You have reached your unauthenticated pull rate limit",
        "error from registry: You have reached your unauthenticated pull rate limit",
        "error from registry: service unavailable",
        "unknown: failed to resolve reference \"r.example/x:1\": unexpected status from HEAD "
        "request to https://r.example/v2/x/manifests/1: 502 Bad Gateway",
        "received unexpected HTTP status: 502 Bad Gateway",
        "error parsing HTTP 404 response body: invalid character '<' looking for beginning",
        "error pulling image configuration: download failed after attempts=6: EOF",
    ],
    None: [
        "",
        "task: non-zero exit (1)",
        "starting container failed: exec: \"x\": permission denied: unknown",
        "network lab_notebooks not found",
        "No such container: x",
        "something new",
    ],
}  # fmt: skip

#: Mounts speak of hosts, refusals and paths too.
MOUNTS = [
    "failed to mount local volume: mount :/v2/x/manifests/1:/var/lib/docker/volumes/a/_data: "
    "permission denied",
    "error while mounting volume '/var/lib/docker/volumes/a/_data': failed to mount local volume: "
    "mount //files.example/a:/var/lib/docker/volumes/a/_data: connection refused",
    "error resolving passed in network volume address: lookup files.example: no such host",
]

REASONS = {
    Cause.unknown: "image_not_found",
    Cause.missing: "image_not_found",
    Cause.refused: "registry_refused",
    Cause.unreachable: "registry_unreachable",
}


def rejected(words: str) -> StartFailure:
    raw = {"ID": "t", "NodeID": "n", "Status": {"State": "rejected", "Err": words}}
    found = start_failure(read_task(raw), image="r.example/x:1", lasted_s=0, node="box")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("expected", "words"), [(each, words) for each, listed in WORDS.items() for words in listed]
)
def test_the_cause_is_read_from_the_engines_words(expected: Cause | None, words: str) -> None:
    assert cause(words) is expected
    if expected is None:
        return
    found = rejected(words)
    assert found.reason == REASONS[expected]
    assert "r.example/x:1" in found.message
    assert words[:20] in found.detail
    assert ("registry_config.json" in found.detail) is (expected is Cause.refused)


@pytest.mark.parametrize("words", MOUNTS)
def test_a_mount_is_no_pull(words: str) -> None:
    assert rejected(words).reason == "mount"


def test_no_login_of_an_address_is_repeated() -> None:
    found = rejected('Get "https://ann:swordfish@r.example/v2/": EOF')
    assert "swordfish" not in found.detail
