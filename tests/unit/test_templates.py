"""
Templates are compiled when they are first shown.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from jinja2 import Environment

from gateway.web.app import CompileOnce


def test_many_first_requests_compile_a_page_once(tmp_path, monkeypatch):
    """
    Otherwise each of them does, and `/healthz` waits for all.
    """
    (tmp_path / "page.html").write_text("Hello, {{ name }}")
    compiled, compile_ = [], Environment.compile

    def slowly(self, source, *args, **options):
        compiled.append(source)
        time.sleep(0.1)
        return compile_(self, source, *args, **options)

    monkeypatch.setattr(Environment, "compile", slowly)
    environment = Environment(loader=CompileOnce(tmp_path), autoescape=True)
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda number: environment.get_template("page.html").render(name=number), range(8)))

    assert [f"Hello, {number}" for number in range(8)] == pages
    assert len(compiled) == 1
