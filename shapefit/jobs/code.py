"""What the code is that makes something, as a checksum: a set that grows with time must not mix two."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
VALUES = "settings"  # numbers, which jobs compare themselves


@cache
def code_digest(*modules: str) -> str:
    """SHA-256 of modules of this package (`scene.simulate`) and of all in it that they import.

    Comments, docstrings and the layout do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(modules)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        digest.update(f"{path.relative_to(PACKAGE)} {ast.dump(tree)}".encode())
    return digest.hexdigest()


def _closure(modules: tuple[str, ...]) -> set[Path]:
    found: set[Path] = set()
    waiting = [PACKAGE.joinpath(*name.split(".")).with_suffix(".py") for name in modules]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return found


def _imported(path: Path) -> list[Path]:
    """Files of this package that a file imports from, anywhere in it."""
    files = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            # a name that is imported may itself be a module
            names = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, *parts = name.split(".")
            if package == PACKAGE.name and parts and parts[0] != VALUES:
                place = PACKAGE.joinpath(*parts)
                files += [
                    file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()
                ]
    return files
