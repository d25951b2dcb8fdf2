"""Files that come with shapefit, found by name: `models/<name>/<name>.<suffix>`."""

from pathlib import Path


def shipped_file(path_or_name: str | Path, suffix: str, file: str, named: str) -> Path:
    """The file given by path, or by its name in `models/` (repository or installed package).

    `suffix` is that of such files (.h5); `file` and `named` are the words for one given by path and for one
    given by name. Raises ValueError naming those that there are.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parents[1]
    known: dict[str, Path] = {}
    for folder in (package / "models", package.parent / "models", Path("models")):
        for found in sorted(folder.glob(f"*/*{suffix}")) if folder.is_dir() else []:
            if found.stem == found.parent.name:
                known.setdefault(found.stem, found)
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    names = ", ".join(known) or "none installed"
    raise ValueError(f"{path_or_name}: no such {file}, nor the name of {named} ({names})")
