"""The examples of docs/partners.md, run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "tests" / "node" / "node_modules"
HAS_NODE = (NODE / "esbuild").exists()
DOCUMENT = (ROOT / "docs" / "partners.md").read_text(encoding="utf-8")
_DENO = "globalThis.Deno ??= {env: {get: (name) => process.env[name]}};"


def example(language: str, having: str) -> str:
    """The only block of a language that has that text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if having in block]
    return found


def run_python(folder: Path, having: str, then: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """The Python example, and `then` behind it."""
    return _run(folder, sys.executable, "-c", f"{example('python', having)}\n{then}", **environ)


def run_typescript(folder: Path, having: str, then: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """The TypeScript example, and `then` behind it, in Node; `Deno.env` is its environment."""
    (folder / "example.ts").write_text(f"{example('ts', having)}\n{then}", encoding="utf-8")
    built = [NODE / "esbuild" / "bin" / "esbuild", "--format=esm", "--outfile=example.mjs", f"--banner:js={_DENO}"]
    _run(folder, *built, "--log-level=warning", "example.ts").check_returncode()
    return _run(folder, "node", "example.mjs", **environ)


def _run(folder: Path, *command: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
