"""
`init`: what it asks, what it writes, and that it never spoils a file that is there.
"""

from __future__ import annotations

import os
import stat

import pytest
from click.testing import CliRunner
from dotenv import dotenv_values

from gateway.cli.main import main
from gateway.settings import read_settings

FLAGS = (
    *("--public-url", "https://connect.example.com", "--supabase-url", "https://p.supabase.co"),
    *("--database-url", "postgresql://gateway_app:p%40ss$w'rd@db.example/postgres"),
    *("--app-origin", "https://app.example.com", "--login-url", "https://app.example.com/login"),
    *("--provider", "ghl", "--client-id", "64a0-1", "--client-secret", "s3cret", "--trusted-proxies", "1", "--yes"),
)


@pytest.fixture
def init(monkeypatch, tmp_path):
    """The command in an empty folder, without settings; its answers are lines."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "SUPABASE_", "DATABASE_")) or name.endswith(("_CLIENT_ID", "_CLIENT_SECRET")):
            monkeypatch.delenv(name)

    def run(*arguments, answers=(), code=0):
        ended = CliRunner().invoke(main, ["init", *arguments], input="".join(f"{answer}\n" for answer in answers))
        assert code == ended.exit_code, ended.output
        assert {".env"} >= {path.name for path in tmp_path.iterdir()}, "something was left half-written"
        return ended.output

    run.file = tmp_path / ".env"
    return run


def test_flags_alone_write_settings_that_serve_accepts(init):
    """
    With a new key, readable by its owner alone; the redirect URI and the next commands are printed, and no secret.
    """
    said = init(*FLAGS)

    settings = read_settings()
    assert "https://connect.example.com" == settings.public_url
    assert "postgresql://gateway_app:p%40ss$w'rd@db.example/postgres" == settings.database_url.get_secret_value()
    assert ("64a0-1", "s3cret") == (settings.clients["ghl"].client_id, settings.clients["ghl"].client_secret)
    assert 1 == len(settings.keys)
    assert 0o600 == stat.S_IMODE(init.file.stat().st_mode)
    assert "https://connect.example.com/crm/main/callback" in said
    assert "python -m gateway db apply" in said
    for secret in ("s3cret", "p%40ss", settings.keys[0].get_secret_value()):
        assert secret not in said


def test_questions_are_asked_until_the_answer_is_valid(init):
    """
    Secrets are not echoed; the sign-in page is proposed from the front end's origin.
    """
    said = init(
        answers=[
            "http://connect.example.com", "https://connect.example.com", "", "https://p.supabase.co",
            "mysql://x", "postgresql://u:hidden1@db/x", "https://app.example.com", "",
            "Northwind", "nowhere.png", "", "help@northwind.example", "ghll", "Google", "id-1", "hidden2",
        ]
    )  # fmt: skip

    settings = read_settings()
    assert 1 == settings.trusted_proxies
    assert "https://app.example.com/login" == settings.app_login_url
    assert ("Northwind", None, "mailto:help@northwind.example") == (
        settings.brand_name, settings.brand_logo, settings.brand_support_url
    )  # fmt: skip
    assert "hidden2" == settings.clients["google"].client_secret
    assert "GATEWAY_PUBLIC_URL has to be https" in said
    assert 1 == said.count("DATABASE_URL is not a Postgres address")
    assert "GATEWAY_BRAND_LOGO cannot be read" in said
    assert "there is no provider ghll" in said
    assert "https://connect.example.com/email/google/callback" in said
    assert "hidden" not in said


def test_a_file_that_is_there_keeps_its_lines_and_its_keys(init):
    """
    Comments, other settings and the key stay; a setting is replaced where it is. Without a yes nothing changes.
    """
    init(*FLAGS)
    key = read_settings().keys
    before = f"# ours\nexport GHL_CLIENT_ID=old\n{init.file.read_text()}GATEWAY_EVENTS_DAYS=30\n"
    init.file.write_text(before)

    init("--provider", "ghl", "--client-id", "new", answers=[""] * 10 + ["n"], code=1)
    assert before == init.file.read_text()
    assert "Nothing to change" in init("--yes")
    init("--provider", "ghl", "--client-id", "new", "--client-secret", "other", "--yes")

    settings = read_settings()
    assert key == settings.keys
    assert 30 == settings.events_days
    assert ("new", "other") == (settings.clients["ghl"].client_id, settings.clients["ghl"].client_secret)
    assert init.file.read_text().startswith("# ours\nGHL_CLIENT_ID=new\n")
    assert "old" not in init.file.read_text()


@pytest.mark.parametrize("answers", [[], ["https://connect.example.com"], [""] * 10 + ["google", "id"]])
def test_an_interruption_writes_nothing(init, answers):
    """
    At the first question, in the middle, at the last one.
    """
    init(answers=answers, code=1)

    assert not init.file.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--public-url", "connect.example.com"), "GATEWAY_PUBLIC_URL is not a web address"),
        (("--database-url", "postgresql://u:canary@db"), "DATABASE_URL names no database"),
        (("--database-url", "postgresql://u:${HOME}@db/x"), "DATABASE_URL has a character that .env cannot hold"),
        (
            ("--database-url", "postgresql://u:a\nGATEWAY_X=1@db/x"),
            "DATABASE_URL has a character that .env cannot hold",
        ),
        (("--supabase-secret-key", "sb_secret_x"), "needs SUPABASE_URL"),
        (("--provider", "ghll"), "there is no provider ghll"),
        (("--client-id", "x"), "need --provider"),
        (("--trusted-proxies", "many"), "GATEWAY_TRUSTED_PROXIES is wrong"),
        (("--app-origin", "https://app.example.com/path"), "GATEWAY_APP_ORIGINS is not an origin"),
        (("--login-url", "ftp://app.example.com"), "GATEWAY_APP_LOGIN_URL is not a web address"),
    ],
)
def test_a_wrong_flag_ends_with_what_to_fix_and_writes_nothing(init, flags, said):
    """
    The sentence does not repeat the value.
    """
    output = init(*flags, "--yes", code=2)

    assert 1 == output.count(said)
    assert "canary" not in output
    assert not init.file.exists()


def test_a_value_of_several_lines_is_kept(init):
    """
    Also one that mentions a setting inside.
    """
    text = 'ACME_CLIENT_SECRET="one\nGHL_CLIENT_ID=inside\nthree"\n'
    init.file.write_text(text)

    init("--provider", "ghl", "--client-id", "x", "--client-secret", "back\\slash", "--yes")
    assert init.file.read_text().startswith(text)
    assert {"GHL_CLIENT_ID": "x", "GHL_CLIENT_SECRET": "back\\slash"}.items() <= dotenv_values(init.file).items()


@pytest.mark.parametrize(("url", "proxies"), [("https://connect.example.com", 1), ("http://localhost:8000", 0)])
def test_yes_takes_what_enter_would(init, url, proxies):
    """
    The proxy that ends TLS is counted, and the sign-in page is guessed; both are printed.
    """
    said = init("--public-url", url, "--app-origin", "https://app.example.com", "--yes")

    assert f"GATEWAY_TRUSTED_PROXIES={proxies}\n" in init.file.read_text()
    assert "GATEWAY_APP_LOGIN_URL=https://app.example.com/login\n" in init.file.read_text()
    assert "GATEWAY_TRUSTED_PROXIES, GATEWAY_APP_ORIGINS, GATEWAY_APP_LOGIN_URL" in said


def test_without_a_database_the_gateway_starts_before_the_doctor_looks(init):
    said = init("--public-url", "http://localhost:8000", "--yes")

    assert 0 < said.index("python -m gateway serve --embedded") < said.index("python -m gateway doctor")


def test_a_key_in_the_environment_is_not_made_again(init, monkeypatch):
    init(*FLAGS)
    monkeypatch.setenv("GATEWAY_KEYS", read_settings().keys[0].get_secret_value())
    init.file.unlink()

    init(*FLAGS)
    assert "GATEWAY_KEYS" not in init.file.read_text()
