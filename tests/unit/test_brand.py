"""
The operator's brand: a logo that is safe to serve, a colour that can be read, addresses that are addresses.
"""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from gateway import create_app
from gateway.errors import SettingsRefused
from gateway.settings import read_settings

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'


def settings(**values):
    return read_settings({"GATEWAY_KEYS": Fernet.generate_key().decode()} | values)


def refusal(**values):
    with pytest.raises(SettingsRefused) as refused:
        settings(**values)
    (problem,) = refused.value.problems
    return problem


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF0000WEBPVP8 ", "image/webp"),
        (SVG.format('<path d="M0 0" fill="url(#a)"/><use href="#b"/>').encode(), "image/svg+xml"),
    ],
)
def test_a_logo_file_gets_the_type_of_its_content(tmp_path, data, kind):
    """
    Whatever its name says.
    """
    (tmp_path / "logo.txt").write_bytes(data)

    assert kind == settings(GATEWAY_BRAND_LOGO=str(tmp_path / "logo.txt")).brand_logo.type


@pytest.mark.parametrize(
    "content",
    [b"<html><body>no</body></html>", b"plain text", b"", SVG.format("").encode("utf-16"), PNG + b"0" * 300_000],
)
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    """
    Another type, too many bytes.
    """
    (tmp_path / "logo.svg").write_bytes(content)

    assert refusal(GATEWAY_BRAND_LOGO=str(tmp_path / "logo.svg")).startswith("GATEWAY_BRAND_LOGO is ")


def test_a_logo_that_is_opened_by_itself_runs_no_script(tmp_path):
    """
    In a page it is an <img>, which runs none either. The second policy is enforced together with the pages' own.
    """
    (tmp_path / "logo.svg").write_text(SVG.format("<script>alert(1)</script>"))
    app = create_app({
        "GATEWAY_KEYS": Fernet.generate_key().decode(), "GATEWAY_JOURNAL": "0",
        "DATABASE_URL": "postgresql://a:b@127.0.0.1:1/d", "GATEWAY_BRAND_LOGO": str(tmp_path / "logo.svg"),
    })  # fmt: skip

    response = app.test_client().get("/brand/logo")

    assert "image/svg+xml" == response.mimetype
    assert "nosniff" == response.headers["X-Content-Type-Options"]
    assert any(
        policy.startswith("sandbox; default-src 'none'")
        for policy in response.headers.getlist("Content-Security-Policy")
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example.com/logo.png", "https://cdn.example.com", "https://cdn.example.com/", "https://cdn.example.com/a/",
        "https://cdn.example.com/a.png?b=c", "https://cdn.example.com/a.png#b", "https://cdn.example.com/a.png;script-src *",
        "https://cdn.example.com/a,b.png", "https://*.example.com/a.png", "https://u:p@cdn.example.com/a.png", "https://cdn.example.com/a b.png",
        "https://cdn.example.com/a.png\nx", "javascript://cdn.example.com/a", "/no/such/file.png",
    ],
)  # fmt: skip
def test_a_logo_address_that_could_widen_the_policy_is_refused(url):
    """
    The address stands in the Content-Security-Policy, which has to allow it and nothing else.
    """
    assert "GATEWAY_BRAND_LOGO" in refusal(GATEWAY_BRAND_LOGO=url)


@pytest.mark.parametrize("color", ["red", "#12", "#12345", "#1234567", "#ggg", "0b6158", "#fff;}", "rgb(1,2,3)"])
def test_a_colour_of_another_form_is_refused(color):
    """
    It is written into a style sheet.
    """
    assert "GATEWAY_BRAND_COLOR is not a colour" in refusal(GATEWAY_BRAND_COLOR=color)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_BRAND_NAME", "x" * 61),
        ("GATEWAY_BRAND_NAME", "North\nwind"),
        ("GATEWAY_BRAND_NAME", "North\u202ewind"),
        ("GATEWAY_BRAND_HOME_URL", "javascript:alert(1)"),
        ("GATEWAY_BRAND_HOME_URL", "http://app.example.com"),
        ("GATEWAY_BRAND_SUPPORT_URL", "javascript:alert(1)"),
        ("GATEWAY_BRAND_SUPPORT_URL", "mailto:help@x.example?bcc=evil@x.example"),
    ],
)
def test_a_name_or_an_address_that_is_none_is_refused(name, value):
    """
    They are on every page.
    """
    assert refusal(**{name: value}).startswith(name)


def test_users_get_back_to_the_first_front_end_unless_a_home_is_set():
    """
    The home page, else the first of the product's origins.
    """
    origins = {"GATEWAY_APP_ORIGINS": "https://a.example,https://b.example"}

    assert "https://a.example" == settings(**origins).home_url
    assert "https://h.example/x" == settings(**origins, GATEWAY_BRAND_HOME_URL="https://h.example/x").home_url
    assert settings().home_url is None
