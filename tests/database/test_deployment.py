"""
The files for deployment: what the image contains is enough, and the other files agree with it and with the code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import requests
import yaml
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict

from gateway import __version__
from tests.support.gateway_process import ROOT, free_port, wait_until_ready

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVE = "python -m gateway serve --host 0.0.0.0"


def copied():
    """The files and folders that the image takes from the checkout, and where it puts them."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.split("\nFROM ${PYTHON}\n")[1], re.MULTILINE):
        *sources, target = line.split()
        yield from ((source, target) for source in sources)


def account(database):
    """The account that may enter the folder of the test database's socket, if this process may start others as it."""
    found = Path(conninfo_to_dict(database)["host"]).stat().st_uid
    if found == os.geteuid():
        return {}
    who = {"user": found, "group": found, "extra_groups": []}
    try:
        return who if subprocess.run([sys.executable, "-c", ""], **who, check=False).returncode == 0 else {}
    except PermissionError:
        return {}


@pytest.fixture
def image(database, tmp_path_factory):
    """What the image's last stage holds, read-only, run as another account, with `/data` writable."""
    top = tmp_path_factory.mktemp("image")
    for folder in (top, *top.parents[:3]):
        folder.chmod(0o711)
    app, data, who = top / "app", top / "data", account(database)
    app.mkdir()
    for source, target in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, app / target if not target.endswith("/") else app / source)
    subprocess.run(["chmod", "-R", "a=rX", app], check=True)
    data.mkdir(mode=0o700)
    if who:
        os.chown(data, who["user"], who["group"])
    return app, data, who


def test_the_image_has_what_serve_needs_and_says_what_it_is(image, database):
    """
    The copied files alone, a read-only tree, another account: ready, healthy by the image's own check, and stopped by SIGTERM with 0.
    The log has one format; its first lines say version, address, database, sign-in project, redirect URIs and worker, and no secret.
    """
    app, data, who = image
    port = free_port()
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(app),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GATEWAY_DATA": str(data),
        "GATEWAY_KEYS": Fernet.generate_key().decode(),
        "GATEWAY_PUBLIC_URL": "https://connect.example.com",
        "DATABASE_URL": database.replace("postgres@", "postgres:canary-password@"),
        "GHL_CLIENT_ID": "64a0-1",
        "GHL_CLIENT_SECRET": "canary-secret",
        "PORT": str(port),
    }
    command = json.loads(re.search(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[1])
    served = subprocess.Popen(command, cwd=app, env=environ, stderr=subprocess.PIPE, text=True, **who)
    try:
        wait_until_ready(served, port, served.stderr.read)
        check = json.loads(re.search(r"^  CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)[1])
        assert 0 == subprocess.run(check, env=environ, check=False).returncode
        assert "<html" in requests.get(f"http://127.0.0.1:{port}/problems/not_found", timeout=30).text
    finally:
        served.send_signal(signal.SIGTERM)
        said = served.communicate(timeout=60)[1]
    assert 0 == served.returncode, said
    events = [json.loads(line) for line in said.splitlines()]
    assert [f"server.{what}" for what in ("starting", "database", "sign_in", "providers", "worker", "ready")] == [
        event["event"] for event in events[:6]
    ]
    assert {"ghl": "https://connect.example.com/crm/main/callback"} == events[3]["redirect_uris"]
    assert (__version__, f"http://0.0.0.0:{port}") == (events[0]["version"], events[0]["address"])
    assert "canary" not in said
    assert [] == [event for event in events if event["level"] not in ("info", "debug")]
    assert 1 == subprocess.run(check, env=environ, check=False, stderr=subprocess.DEVNULL).returncode


def test_nothing_else_gets_into_the_image():
    """
    Neither `.env` nor keys: the build sees only what the Dockerfile copies, and the image runs without root.
    """
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert {source for source, _ in copied()} | {"requirements.txt"} == allowed
    assert "\n*\n" in (ROOT / ".dockerignore").read_text()
    assert "USER ${RUN_AS}\n" in DOCKERFILE
    assert "ARG RUN_AS=10001:10001\n" in DOCKERFILE


def test_the_files_of_each_platform_start_the_same_command():
    """
    Compose, systemd, Kubernetes, Fly.io, Render, Railway: `serve`, the folder /data, the paths for health, more than 15 s to stop.
    """
    deploy = ROOT / "deploy"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    pods = next(yaml.safe_load_all((deploy / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"]
    fly = tomllib.loads((deploy / "fly.toml").read_text())
    (render,) = yaml.safe_load((deploy / "render.yaml").read_text())["services"]
    railway = json.loads((deploy / "railway.json").read_text())["deploy"]
    (container,) = pods["containers"]

    for command in (
        " ".join(compose["gateway"]["command"]),
        " ".join(container["command"]),
        fly["processes"]["app"],
        render["dockerCommand"],
        railway["startCommand"],
    ):
        assert SERVE in command
        assert command.count("chown 10001:10001 /data") == command.count("--reuid=10001")
        shlex.split(command)
    assert compose["gateway"]["read_only"]
    assert compose["gateway"]["volumes"] == compose["worker"]["volumes"] == ["data:/data"]
    assert {"/data", "/tmp"} == {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "/healthz" == container["livenessProbe"]["httpGet"]["path"]
    ready = container["readinessProbe"]["httpGet"]["path"], render["healthCheckPath"], railway["healthcheckPath"]
    assert {"/readyz"} == {*ready, fly["http_service"]["checks"][0]["path"]}
    seconds = compose["gateway"]["stop_grace_period"], pods["terminationGracePeriodSeconds"], fly["kill_timeout"]
    for each in (*seconds, render["maxShutdownDelaySeconds"], railway["drainingSeconds"]):
        assert int(str(each).rstrip("s")) > 15


def test_every_setting_in_the_deployment_files_exists():
    """
    GATEWAY_ names in files and pages are settings, or named here: those that Caddy alone reads.
    """
    from gateway.settings import SECRETS, Settings, setting_name

    known = (
        {setting_name(field) for field in Settings.model_fields}
        | {f"{name}_FILE" for name in SECRETS}
        | {"GATEWAY_UPSTREAM"}
    )
    files = [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / ".env.example", *(ROOT / "deploy").rglob("*.*")]
    for file in [*files, ROOT / "docs" / "deployment.md", *(ROOT / "docs" / "deploy").glob("*.md")]:
        assert set(re.findall(r"\bGATEWAY_[A-Z_]+", file.read_text())) <= known, file


def test_the_units_of_systemd_are_valid():
    """
    As far as `systemd-analyze` is there; the program it does not find is the one that an operator installs.
    """
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    units = sorted((ROOT / "deploy" / "systemd").iterdir())
    said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False).stderr

    assert [] == [line for line in said.splitlines() if "is not executable" not in line]
