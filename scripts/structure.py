"""Prints the numbers that limit the structure: `make structure`.

Entries of the package are its modules and packages, without `__init__` and other files (`static`, ...).
Lines include blank ones and comments.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from eclipse_ws.backends.base import Backend
from eclipse_ws.config.settings import Settings, variable

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "eclipse_ws"


def entries() -> list[str]:
    """The modules and packages right below the package."""
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    return sorted(modules + [path.parent.name for path in PACKAGE.glob("*/__init__.py")])


def lines(paths: Iterable[Path]) -> int:
    """Lines of files, and of the Python, Lua and SQL files of folders."""
    files = [
        file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
    ]
    return sum(
        len(file.read_text(encoding="utf-8").splitlines())
        for file in files
        if file.suffix in (".py", ".lua", ".sql")
    )


def contract() -> tuple[int, int]:
    """The backend contract: its methods, without properties, and the lines of their signatures."""
    tree = ast.parse((PACKAGE / "backends" / "base.py").read_text(encoding="utf-8"))
    (backend,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == Backend.__name__)
    methods = [
        node
        for node in backend.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)
    ]
    return len(methods), sum(
        len(method.decorator_list) + method.body[0].lineno - method.lineno for method in methods
    )


def longest(most: int = 300) -> list[tuple[int, str]]:
    """Files with more than ``most`` lines, the longest first."""
    sizes = ((lines([path]), str(path.relative_to(ROOT))) for path in PACKAGE.rglob("*.py"))
    return sorted((row for row in sizes if row[0] > most), reverse=True)


def undocumented() -> list[str]:
    """Settings that docs/settings.md does not name."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    return [name for name in Settings.model_fields if f"`{variable(name)}`" not in text]


def untested() -> list[str]:
    """Settings that no test sets, judging by the tests' sources."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    return [
        name
        for name in Settings.model_fields
        if not re.search(rf'\b{name}\s*=|"{name}"|\b{variable(name)}\b', text)
    ]


def main() -> int:
    """Print the numbers. Returns 1 if an import points up or is part of a cycle."""
    methods, signature_lines = contract()
    rows = {
        "entries in eclipse_ws/": len(entries()),
        "methods of the backend contract": methods,
        "lines of their signatures": signature_lines,
        "lines of the memory backend": lines([PACKAGE / "backends" / "memory.py"]),
        "lines of backends/ and delivery/": lines([PACKAGE / "backends", PACKAGE / "delivery"]),
        "files of more than 300 lines": len(longest()),
        "settings": len(Settings.model_fields),
        "settings that are not documented": len(undocumented()),
        "settings that no test sets": len(untested()),
    }
    for name, number in rows.items():
        print(f"{number:6}  {name}")
    for size, path in longest():
        print(f"        {size} {path}")
    linter = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([linter, "--no-logo"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
