"""Files appear whole or not at all: write beside the target, then rename."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def prepare_output_dir(folder: str | Path) -> Path:
    """Make a folder for results if it is absent, and prove now, not after an hour, that it can be written.

    Raises ValueError that names the folder and the system's reason.
    """
    folder = Path(folder)
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write into {folder}: {error.strerror or error}; choose another output folder"
        ) from error
    return folder


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error.

    The temporary name ends like the real one, so that writers that look at the suffix choose the same
    format. When the block fails, nothing is left behind and an older `path` is untouched.
    Raises ValueError for a folder that cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write the file {path}: a folder has this name")
    prepare_output_dir(path.parent)
    temporary = path.parent / f".partial-{uuid.uuid4().hex}-{path.name}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(folder: str | Path, replaces: tuple[str, ...] = ()) -> Iterator[Path]:
    """A temporary folder whose files all move into `folder` when the block ends without an error.

    Folders in it are filled likewise, file by file. When the block fails, `folder` is as it was, and is not
    left behind if it was absent. `replaces` are patterns of files of an earlier run (`*.ply`,
    `sample_*/*.ply`) that go when the new ones come, with the folders that this empties.
    Raises ValueError for a folder that cannot be written.
    """
    folder = Path(folder)
    absent = not folder.exists()
    prepare_output_dir(folder)
    temporary = folder / f".partial-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        files = [path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()]
        # records go last: whoever finds one finds what it tells of
        files.sort(key=lambda path: (path.suffix == ".json", path))
        old = {path.relative_to(folder) for pattern in replaces for path in folder.glob(pattern)}
        for path in sorted(old - set(files)):
            if (folder / path).is_file() and path.parts[0] != temporary.name:
                (folder / path).unlink()
                if path.parent != Path() and not any((folder / path.parent).iterdir()):
                    (folder / path.parent).rmdir()
        for path in files:
            (folder / path.parent).mkdir(parents=True, exist_ok=True)
            os.replace(temporary / path, folder / path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if absent and not any(folder.iterdir()):
            folder.rmdir()
