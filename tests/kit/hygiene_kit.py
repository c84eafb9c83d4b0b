"""Where a secret could show: everything that somebody without the secrets may read."""

from __future__ import annotations

import base64
import json
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator

from jhswarmd import labels
from tests.kit.lab import Lab
from tests.kit.stack import USERS, Stack


def secret_words(stack: Stack) -> set[tuple[str, str]]:
    """Return (kind, word) for each word that must not show; read from inside the containers."""
    words = {("password", password) for password in USERS.values()}
    for role in ("hub", "proxy", "jhswarmd"):
        container = stack.container(role)
        listing = container.exec_run(["ls", "/run/secrets"], user="root").output.decode()
        for kind in listing.split():
            if kind == "tls_cert":  # shown to every visitor
                continue
            answer = container.exec_run(["cat", f"/run/secrets/{kind}"], user="root")
            assert answer.exit_code == 0, kind
            for line in answer.output.decode("utf-8-sig").splitlines():
                if not line.strip() or line.startswith(("#", "-----")):
                    continue
                kind = re.sub(r"_g[0-9]+$", "", kind)  # several generations may be mounted
                words.add((kind, line.partition(":")[2] if kind == "users" else line.strip()))
    return words


def forms(word: str) -> set[str]:
    """Return all that a word looks like where it was encoded, alone or within something longer."""
    raw = word.encode()
    found = {word, raw.hex(), raw.hex().upper(), json.dumps(word)[1:-1]}
    found |= {urllib.parse.quote(word, safe=""), urllib.parse.quote_plus(word, safe="")}
    for before in range(3):
        # The characters at both ends hang on what stands beside the word too.
        first, last = (0, 2, 3)[before], (0, 3, 2)[(before + len(raw)) % 3]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + raw).decode()
            found.add(text[first : len(text) - last])
    return found


def shown_in(lab: Lab, stack: Stack, words: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return (kind, place) for each word that shows in some form.

    Never the word itself: what fails here ends in a report.
    """
    wanted = [(kind, form) for kind, word in words for form in forms(word)]
    everything = [*places(lab), *places_of(stack)]
    return {(kind, place) for place, text in everything for kind, form in wanted if form in text}


def places(lab: Lab) -> Iterator[tuple[str, str]]:
    """Return (place, text) for all that an onlooker without the secrets may read."""
    api = lab.client.api
    for service in api.services():
        yield f"inspect of {service['Spec']['Name']}", json.dumps(service, ensure_ascii=False)
    for container in api.containers(all=True):
        text = json.dumps(api.inspect_container(container["Id"]), ensure_ascii=False)
        yield f"inspect of {container['Names']}", text
        log = api.logs(container["Id"])
        yield f"log of {container['Names']}", log.decode(errors="replace")
    # Events hold the whole command line of each exec.
    events = ["docker", "events", "--since", "24h", "--until", "0s", "--format", "{{json .}}"]
    yield "events", lab.run(events).stdout
    for what in ("cmdline", "environ"):
        script = f"cat /proc/[0-9]*/{what} 2>/dev/null | tr '\\0' '\\n'"
        yield f"/proc/*/{what}", lab.run(["sh", "-c", script], check=False).stdout
    for path in lab.data_root.glob("containers/*/*"):
        if path.is_file():
            yield str(path), path.read_text(errors="replace")
    for what in ("tasks", "secrets", "configs", "nodes", "networks", "volumes"):
        yield f"list of {what}", json.dumps(getattr(api, what)(), ensure_ascii=False)
    for config in api.configs():
        yield f"config {config['Spec']['Name']}", base64.b64decode(config["Spec"]["Data"]).decode()
    for image in api.images():
        text = json.dumps([api.inspect_image(image["Id"]), api.history(image["Id"])])
        yield f"image {image['RepoTags']}", text


def places_of(stack: Stack) -> Iterator[tuple[str, str]]:
    """Return (place, text) for what the stack itself tells of its daemon."""
    yield "status", stack.cli("status", "--json", check=False).stdout
    yield "status for people", stack.cli("status", check=False).stdout
    daemon = stack.container("jhswarmd")
    networks = daemon.attrs["NetworkSettings"]["Networks"]
    address = networks[labels.network_name(stack.name, "control")]["IPAddress"]
    for path in ("metrics", "health", "ready"):
        script = (
            f"import urllib.request as r; print(r.urlopen('http://{address}:9108/{path}').read())"
        )
        yield path, daemon.exec_run(["python3", "-c", script]).output.decode()


def layers_with(lab: Lab, words: Iterable[str]) -> list[str]:
    """Return the files in layers of images and containers that hold one of these in some form.

    The accounts that PAM reads are in the hub's own layer: hashes, for root alone.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write("\n".join(form for word in words for form in forms(word)))
        file.flush()
        layers = [str(path) for path in lab.data_root.glob("overlay2/*/diff")]
        found = lab.run(
            ["grep", "-rlF", "--exclude=shadow", "-f", file.name, *layers],
            check=False,
            timeout_s=300,
        )
    return found.stdout.splitlines()
