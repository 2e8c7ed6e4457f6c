"""
The texts of the pages: every language is complete, and an operator's file that does not fit stops the process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from cryptography.fernet import Fernet

from gateway.catalog import load_catalog
from gateway.connect.form import Fault
from gateway.errors import SettingsRefused, every_problem
from gateway.settings import read_settings
from gateway.texts import placeholders, read_texts, wrong_texts

ROOT = Path(__file__).resolve().parents[2]
TEXTS = read_texts()


def settings(folder):
    return read_settings({"GATEWAY_KEYS": Fernet.generate_key().decode(), "GATEWAY_TEXTS": str(folder)})


def problem_of(folder):
    with pytest.raises(SettingsRefused) as refused:
        settings(folder)
    (problem,) = refused.value.problems
    assert problem.startswith("GATEWAY_TEXTS ")
    return problem


@pytest.mark.parametrize("language", TEXTS)
def test_every_language_has_every_text_with_the_same_placeholders(language):
    """
    And no text that the pages do not use.
    """
    english, texts = TEXTS["en"], {key: text for key, text in TEXTS[language].items() if not key.startswith("catalog.")}

    assert english.keys() == texts.keys()
    assert {key: placeholders(text) for key, text in english.items()} == {
        key: placeholders(text) for key, text in texts.items()
    }
    assert 12 == len(texts["page.months"].split())


def test_every_text_of_the_catalogue_has_a_german_translation():
    """
    The meanings of scopes, what a user must know before an uninstall, and what is to be entered.
    """
    said = set()
    for entry in load_catalog().entries.values():
        for field in entry.fields.values():
            said |= {field.label, *field.options.values()}
    for provider in load_catalog().providers.values():
        said |= set(provider.scope_texts.values()) | {provider.deviation.uninstall_warning}

    assert {f"catalog.{each}" for each in said - {""}} <= TEXTS["de"].keys()


def test_every_problem_has_its_sentence_for_a_person():
    """
    A title and a text for each slug, in every language, and for the wordings that are more exact than a slug.
    """
    for kind in every_problem():
        for section in {kind.slug, kind.wording or kind.slug}:
            assert {f"problem.{section}.title", f"problem.{section}.text"} <= TEXTS["en"].keys()


def test_every_text_that_a_page_names_exists_and_every_text_is_used():
    """
    Keys in templates and in Python; a key that ends with a dot is completed by a value.
    """
    sources = [*ROOT.glob("templates/*.html"), *ROOT.glob("gateway/web/*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    sections = "|".join({key.split(".")[0] for key in TEXTS["en"]})
    named = set(re.findall(rf'"((?:{sections})\.(?!html)[a-z_]+)"', code))

    assert named - {"signin.out", "signin.first"} <= TEXTS["en"].keys()
    composed = (
        "ability.",
        "claim.",
        "field.",
        "remedy.",
        "reason.",
        "kind.",
        "status.",
        "problem.",
        "scope.",
        "notice.revocation_",
        "notice.uninstalled_",
        "signin.",
    )
    assert {f"field.{fault}" for fault in get_args(Fault)} <= TEXTS["en"].keys()
    assert [] == [key for key in TEXTS["en"] if key not in named and not key.startswith(composed)]


def test_an_operators_file_replaces_single_texts(tmp_path):
    """
    One text changes; the others stay, and so does the other language.
    """
    (tmp_path / "de.toml").write_text('[connect]\nnot_now = "Später"\n[catalog]\n"See users" = "Leute sehen"\n')

    texts = settings(tmp_path).texts

    assert "Später" == texts["de"]["connect.not_now"]
    assert "Leute sehen" == texts["de"]["catalog.See users"]
    assert TEXTS["en"] == texts["en"]
    assert TEXTS["de"]["connect.now"] == texts["de"]["connect.now"]


def test_a_further_language_is_offered_when_it_is_complete(tmp_path):
    """
    A language with gaps would mix two languages on one page.
    """
    (tmp_path / "fr.toml").write_text('[connect]\nnot_now = "Pas maintenant"\n')
    assert "fr.toml: a new language needs every text" in problem_of(tmp_path)

    (tmp_path / "fr.toml").write_text((ROOT / "gateway/texts/en.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert "fr" in settings(tmp_path).texts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[connect]\nnot_nwo = "x"', "connect.not_nwo is not a text (did you mean connect.not_now?)"),
        ('[connect]\ncontinue = "To {provdier}"', "unknown placeholder {provdier}; it may use {provider}"),
        ('[connect]\nnot_now = "{provider}"', "unknown placeholder {provider}; it may use none"),
        ('[connect]\ncontinue = "To {provider"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To provider}"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To {provider.__class__}"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To {provider!r}"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To {provider:>9}"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To {}"', "connect.continue has a broken placeholder"),
        ('[connect]\ncontinue = "To {0}"', "connect.continue has a broken placeholder"),
        ("[connect]\nnot_now = 5", "needs a text in quotes for connect.not_now"),
        ('[connect]\nnot_now = " "', "needs a text in quotes for connect.not_now"),
        ('connect = "x"', "connect is not a text"),
        ("[catalog]\nSee = 1", "needs a text in quotes for catalog.See"),
        ("[connect", "de.toml is not TOML"),
        (b"\xff\xfe", "de.toml is not TOML in UTF-8"),
    ],
)
def test_a_text_file_that_does_not_fit_stops_the_process(tmp_path, content, said):
    """
    An unknown key, a broken placeholder, another type: the message names file and key.
    """
    (tmp_path / "de.toml").write_bytes(content.encode() if isinstance(content, str) else content)

    assert said in problem_of(tmp_path)


def test_a_folder_that_is_none_stops_the_process(tmp_path):
    """
    A file, and a name that does not exist.
    """
    (tmp_path / "de.toml").write_text("")

    assert "is not a folder" in problem_of(tmp_path / "de.toml")
    assert "is not a folder" in problem_of(tmp_path / "nowhere")


def test_all_problems_of_all_files_are_listed_at_once(tmp_path):
    """
    One start shows everything that has to be corrected.
    """
    (tmp_path / "de.toml").write_text('[connect]\nnope = "x"\nnot_now = "{a}"')
    (tmp_path / "en.toml").write_text('[page]\nnope = "x"')

    problem = problem_of(tmp_path)

    assert "de.toml: connect.nope" in problem
    assert "de.toml: connect.not_now" in problem
    assert "en.toml: page.nope" in problem
    assert [] == wrong_texts(TEXTS["de"], TEXTS["en"])
