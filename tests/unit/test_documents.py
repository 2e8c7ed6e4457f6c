"""
The documents, compared with the code: settings, commands, catalogue keys, problems. A document that lies is a defect.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from gateway.catalog import ApiKeyProvider, Provider, load_catalog
from gateway.catalog.provider import Entry, FormField
from gateway.cli.main import main
from gateway.errors import every_problem
from gateway.settings import MEANINGS, OF_PROVIDERS, SECRETS, Settings, setting_name
from gateway.texts import read_texts
from tests.support.provider_pages import pages
from tests.support.reference import FILE, reference

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

CONTRACT_PROBLEMS = {
    "access_denied": (400, "reconnect"),
    "state_invalid": (400, "reconnect"),
    "browser_mismatch": (403, "reconnect"),
    "user_mismatch": (403, "reconnect"),
    "issuer_mismatch": (400, "report"),
    "provider_unavailable": (504, "wait"),
    "provider_garbled": (502, "report"),
    "client_rejected": (502, "operator"),
    "database_unavailable": (503, "wait"),
    "return_to_refused": (400, "fix_request"),
    "not_found": (404, "fix_request"),
    "unauthenticated": (401, "fix_request"),
    "forbidden": (403, "fix_request"),
    "needs_reauthorization": (409, "reconnect"),
    "pending_confirmation": (409, "wait"),
    "frozen": (403, "operator"),
    "rate_limited": (429, "wait"),
    "refresh_in_progress": (503, "wait"),
    "secret_unreadable": (500, "operator"),
}


DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"GATEWAY_UPSTREAM"}
"""Names in documents that programs of others read: Caddy."""
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def table(text, heading):
    """The first column of the table below a heading."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {cell for row in section.splitlines() for cell in re.findall(r"^\| `([^`]+)` \|", row)}


def test_the_reference_is_what_the_code_has():
    """
    Settings, commands with their options, problems. If it differs: `python -m tests.support.reference` writes it.
    """
    assert reference(main) == FILE.read_text(encoding="utf-8"), "run python -m tests.support.reference"


def test_every_setting_says_what_it_is():
    """
    In settings.toml; and each option of a command has its help.
    """
    names = {setting_name(field) for field in Settings.model_fields if field not in OF_PROVIDERS}
    assert names == {name for name in MEANINGS if not name.startswith("<PROVIDER>_")}
    for name, command in every_command(main):
        assert command.help, name
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.opts}"


def every_command(group, before=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*before, name))
        else:
            yield (*before, name), command


@documents
def test_commands_in_documents_exist(document):
    """
    Each `python -m gateway …`, with its options.
    """
    for words in re.findall(r"python -m gateway((?:[ =,/][\w<>|…\".:-]+)+)", document.read_text(encoding="utf-8")):
        command, rest = main, words.split()
        while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z]+", rest[0]):
            assert rest[0] in command.commands, f"{document.name}: python -m gateway{words}"
            command = command.commands[rest.pop(0)]
        offered = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {
            "--help",
            "--version",
        }
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", " ".join(rest)):
            assert option in offered, f"{document.name}: python -m gateway{words}"


@documents
def test_settings_in_documents_exist(document):
    """
    Also those that a shell exports, and their form as a file.
    """
    names = {setting_name(field) for field in Settings.model_fields} | {f"{name}_FILE" for name in SECRETS} | ELSEWHERE
    said = re.findall(
        r"\b(?:GATEWAY_[A-Z_]*[A-Z]|DATABASE_URL\w*|SUPABASE_[A-Z_]*[A-Z])\b(?!=)", document.read_text(encoding="utf-8")
    )

    assert set(said) <= names, document.name


@documents
def test_files_in_documents_exist(document):
    """
    What is linked, and what is named with its folder.
    """
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert link.startswith("https://") or (document.parent / link).exists(), f"{document.name}: {link}"
    for path in re.findall(r"`((?:docs|deploy|gateway|tests|bench|clients|\.ci)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{document.name}: {path}"


@pytest.mark.parametrize("name", ["highlevel", "google", "microsoft", "ringcentral", "zoom"])
def test_the_page_of_a_provider_says_what_the_catalogue_says(name, tmp_path):
    """
    Redirect URI, default scopes, the names of its settings; its TOML is accepted.
    """
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    provider = load_catalog().providers["ghl" if name == "highlevel" else name]

    assert (
        f"/{provider.path}/{provider.slug}/callback\n" in text or f"/{provider.path}/{provider.slug}/callback " in text
    )
    assert {f"{provider.id.upper()}_CLIENT_ID", f"{provider.id.upper()}_CLIENT_SECRET"} <= set(
        re.findall(r"[A-Z_]+", text)
    )
    assert set(provider.scope) <= set(re.findall(r"[^\s`]+", text))
    assert "Not tried with the real service" in text
    for at, block in enumerate(re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)):
        (tmp_path / f"{at}.toml").write_text(block.replace("<tenant>", "contoso"))
    assert load_catalog(tmp_path).providers[provider.id].scope == provider.scope


def test_the_document_of_api_keys_lists_every_key_and_no_other():
    """
    Of an entry, those that other entries do not have or mean otherwise; of a field, all.
    """
    document = (ROOT / "docs" / "api-keys.md").read_text(encoding="utf-8")
    own = set(ApiKeyProvider.model_fields) - set(Entry.model_fields) | {"userinfo_endpoint", "account", "auth"}

    assert own == table(document, "An entry")
    assert set(FormField.model_fields) == table(document, "Fields")


def test_the_document_lists_every_catalogue_key_and_no_other():
    """
    docs/providers.md against the model that judges the files.
    """
    document = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")

    assert set(Provider.model_fields) - {"id"} | {"like"} == table(document, "Keys")


def test_the_pages_of_the_providers_are_the_catalogues():
    """
    Where to register, scopes, what happens to tokens. If one differs: `python -m tests.support.provider_pages` writes them.
    """
    for file, text in pages(load_catalog()).items():
        assert text == file.read_text(encoding="utf-8"), "run python -m tests.support.provider_pages"


def test_every_provider_says_how_far_it_was_exercised():
    """
    Nothing is claimed of a provider that the document leaves out.
    """
    document = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    section = document.split("## How far each was exercised")[1]

    for provider in load_catalog().providers:
        assert f"`{provider}`" in section


def test_the_readme_names_the_two_commands_in_its_order():
    """
    The commands word for word; what it is, demo, a real app, deployment, API.
    """
    assert "pip install -r requirements.txt && python -m gateway demo" in README
    assert "pip install -r requirements-dev.txt && python -m pytest" in README
    assert ["The demo", "A real app", "Deploy", "The API", "More"] == re.findall(r"^## (.+)$", README, re.MULTILINE)


def test_the_problems_are_the_contracts():
    """
    Slug, status and remedy of each; and each has its plain sentences.
    """
    problems = {kind.slug: kind for kind in every_problem()}

    assert CONTRACT_PROBLEMS == {slug: (problems[slug].status, problems[slug].remedy) for slug in CONTRACT_PROBLEMS}
    for kind in problems.values():
        assert f"remedy.{kind.remedy}" in read_texts()["en"]
        assert kind.title
        assert kind.detail


def test_each_problem_has_its_page(gateway):
    """
    The `type` of RFC 9457 leads somewhere; an unknown slug does not.
    """
    nobody = gateway.person()

    for slug in CONTRACT_PROBLEMS:
        page = nobody.get(f"/problems/{slug}")
        assert 200 == page.status_code
        assert f'data-problem="{slug}"' in page.text
    assert 404 == nobody.get("/problems/nonsense").status_code


def test_every_requirement_is_pinned():
    """
    An unpinned version would be installed without review.
    """
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            bare = line.partition("#")[0].strip()
            assert (
                not bare or bare.startswith("-r ") or re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][^ ]*", bare)
            ), line


def test_no_function_is_longer_than_sixty_lines():
    """
    Rarely over 45; a file may be as long as its one idea.
    """
    import ast

    for file in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file.name}: {node.name}"


@pytest.mark.parametrize(("name", "rows"), [("security.md", 76), ("reliability.md", 10)])
def test_every_test_that_a_promise_names_exists(name, rows):
    """
    A promise needs a test, and the number of promises does not fall.
    """
    import ast

    document = (ROOT / "docs" / name).read_text(encoding="utf-8")
    existing = {
        f"{file.name}::{node.name}"
        for file in (ROOT / "tests").glob("*/*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    promises = [
        line for line in document.split("## Promises")[1].split("\n## ")[0].splitlines() if line.startswith("| ")
    ][2:]

    assert len(promises) >= rows
    for promise in promises:
        named = re.findall(r"`([a-z_]+\.py::[a-z0-9_]+)`", promise.rpartition(" | ")[2])
        assert named, promise
        assert set(named) <= existing, set(named) - existing


def blocks(document, language):
    """The fenced blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / document).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_sql_on_the_supabase_page_runs_and_shows_users_their_own(database):
    """
    Block by block over the schema; the view of the page is one that the doctor has nothing against.
    """
    import psycopg

    from gateway.doctor.database import access_rules
    from tests.support.database import rows

    for block in blocks("supabase.md", "sql"):
        rows(database, block)
    with psycopg.connect(database) as owner:
        owner.execute("select set_config('search_path', '', true)")
        assert {"ok"} == {finding.level for finding in access_rules(owner)}


def test_what_the_supabase_page_lets_a_browser_do_is_what_is_granted(database):
    """
    The columns in its table against the catalogue.
    """
    from tests.support.database import rows

    document = (ROOT / "docs" / "supabase.md").read_text(encoding="utf-8")
    _, _, profile, data, _ = next(line for line in document.splitlines() if line.startswith("| `authenticated`")).split(
        "|"
    )
    for cell, name in ((profile, "user_profile"), (data, "provider_data")):
        granted = rows(
            database,
            "select column_name from information_schema.column_privileges where grantee = 'authenticated'"
            " and privilege_type = 'UPDATE' and table_name = %s",
            name,
        )
        assert set(granted) - {"updated_at"} == set(re.findall(r"`([a-z_]+)`", cell))


def test_the_front_end_code_on_the_supabase_page_calls_what_gateway_js_offers():
    """
    `gateway.connect` with options that it reads.
    """
    script = (ROOT / "gateway" / "web" / "static" / "gateway.js").read_text(encoding="utf-8")
    offered = set(re.findall(r"@property \{.*?\} \[?([A-Za-z]+)\]?", script))

    for call in re.findall(r"gateway\.connect\(\"[a-z]+\", \{([^}]*)\}", "\n".join(blocks("supabase.md", "ts"))):
        assert set(re.findall(r"([A-Za-z]+)(?=[,:\s]|$)", call.replace(": true", ""))) <= offered


def test_every_finding_of_the_doctor_has_its_words():
    """
    Each name in the code is in findings.toml, with one level, and the other way round.
    """
    folder = ROOT / "gateway" / "doctor"
    code = "".join(
        each.read_text(encoding="utf-8") for each in (*folder.glob("*.py"), folder.parent / "cli/providers.py")
    )
    parts = tomllib.loads((folder / "findings.toml").read_text(encoding="utf-8"))
    known = {f"{part}.{name}": words for part, findings in parts.items() for name, words in findings.items()}

    assert set(known) == set(re.findall(rf'"((?:{"|".join(parts)})\.[a-z_]+)"', code))
    assert all(len(words.keys() & {"ok", "warn", "fail", "unseen"}) == 1 for words in known.values())
