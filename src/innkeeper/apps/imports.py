"""Imports of a user's files, by path and under a private name, so that no file can stand in for a package.

A file's folder comes first on `sys.path`, then the working folder, as a script's would. One name is an exception:
`agents` is the OpenAI Agents SDK where that is installed, whatever a local `agents.py` or `agents/` holds; the
modules of a local folder `agents/` stay importable beside the SDK's. A served file's own name is treated alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from zlib import crc32

from innkeeper.apps.targets import near
from innkeeper.core.errors import InnkeeperError, SetupError, TargetNotFound

T = TypeVar("T")


class _InstalledFirst(MetaPathFinder):
    """Looks for a few names among what is installed before the user's folders are asked."""

    def __init__(self) -> None:
        self.names = {"agents"}
        self.folders: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, [entry for entry in sys.path if not self._is_local(entry)])
        if spec is None or spec.origin is None:  # nothing, or a folder that only looks like a package
            return None
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.extend(
                str(beside) for folder in self.folders if (beside := Path(folder) / fullname).is_dir()
            )
        return spec

    def _is_local(self, entry: str) -> bool:
        return str(Path(entry or ".").absolute()) in self.folders


_finder = _InstalledFirst()
_loaded: dict[str, str] = {}
"""The modules of users that were loaded here, with those of theirs that they imported: by whom each came."""
_again = threading.RLock()


@contextmanager
def imported_again() -> Iterator[None]:
    """Meanwhile every module of the user's is imported anew. If that raises, the old ones are put back.

    So are, in any case, those of what is not loaded meanwhile, for it goes on and looks its own modules up, as `pickle`
    and annotations do. Code that holds a module from before goes on with that one.
    """
    with _again:
        before = {name: sys.modules.pop(name) for name in sorted(_loaded) if name in sys.modules}
        importlib.invalidate_caches()
        try:
            yield
        except BaseException:
            for name in _loaded:
                sys.modules.pop(name, None)
            sys.modules.update(before)
            raise
        others = {name: module for name, module in before.items() if _loaded[name] not in sys.modules}
        sys.modules.update({name: module for name, module in others.items() if name not in sys.modules})


@contextmanager
def _noted(served: str) -> Iterator[None]:
    """Note what `served` imports meanwhile and is the user's own: beside what is served, and not installed."""
    known = set(sys.modules)
    try:
        yield
    finally:
        new = set(sys.modules) - known
        _loaded.update({name: served for name in new if _is_users(sys.modules[name])})


def _is_users(module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    if module is None or not file or module.__name__.partition(".")[0] == "innkeeper":
        return False
    path = Path(file).absolute()
    is_installed = not _INSTALLS.isdisjoint(path.parts) or any(path.is_relative_to(place) for place in _INSTALLED)
    return not is_installed and any(path.is_relative_to(folder) for folder in _finder.folders)


_INSTALLS = {"site-packages", "dist-packages"}
_INSTALLED = {Path(place).absolute() for place in sysconfig.get_paths().values() if place != sys.prefix}


def add_folder(folder: Path) -> None:
    """Make the modules in `folder` importable, before all others."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    entry = str(folder.absolute())
    if entry not in _finder.folders:
        _finder.folders.append(entry)
        sys.path.insert(0, entry)
        importlib.invalidate_caches()


def load_file(path: Path) -> ModuleType:
    """The module in the file at `path`, executed once.

    Raises: SetupError that names the file, the line and what went wrong in it.
    """
    path = path.absolute()
    name = f"_served_{crc32(str(path).encode()):08x}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    add_folder(path.parent)
    _finder.names.add(path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "the path ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _loaded[name] = name
    try:
        with _noted(name):
            _guarded(lambda: spec.loader.exec_module(module), path)  # type: ignore[union-attr]  # asserted above
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_module(name: str, folder: Path) -> ModuleType:
    """The module `name`: a file below `folder` where there is one, else whatever can be imported by that name.

    Raises: TargetNotFound, or SetupError that names the file, the line and what went wrong in it.
    """
    add_folder(folder)
    local = folder.joinpath(*name.split(".")).with_suffix(".py")
    if local.is_file() and not (local.parent / "__init__.py").is_file():
        return load_file(local)
    try:
        with _noted(name):
            return _guarded(lambda: importlib.import_module(name), None)
    except SetupError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if not missing or not f"{name}.".startswith(f"{missing}."):
            raise
        if local.is_file():
            return load_file(local)
        beside = [path.stem for path in folder.glob("*.py")]
        raise TargetNotFound(
            f"There is no module {name!r}: it is not installed, and {folder} has no {local.relative_to(folder)}."
            f"{near(name, beside)}"
        ) from None


def _guarded(load: Callable[[], T], path: Path | None) -> T:
    """`load()`, whose every failure is told as a `SetupError` that names the place in the user's file."""
    try:
        return load()
    except SyntaxError as error:
        raise SetupError(f"{_place(error.filename, error.lineno)}: {error.msg}.") from error
    except InnkeeperError as error:
        raise SetupError(f"{_line_of(error, path)}{error.message}", param=error.param) from error
    except ModuleNotFoundError as error:
        raise SetupError(f"{_line_of(error, path)}there is no module {error.name!r}. Install what has it.") from error
    except SystemExit as error:
        raise SetupError(f"{_line_of(error, path)}the file ended the program ({error}).") from error
    except Exception as error:
        raise SetupError(f"{_line_of(error, path)}{type(error).__name__}: {error}") from error


def _line_of(error: BaseException, path: Path | None) -> str:
    """The last line of the user's own code on the way to the error."""
    folders = [Path.cwd(), *([] if path is None else [path.parent])]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if "site-packages" not in file.parts and any(file.is_relative_to(folder) for folder in folders):
            return f"{_place(frame.filename, frame.lineno)}: "
    return "" if path is None else f"{_place(str(path), None)}: "


def _place(filename: str | None, line: int | None) -> str:
    path = Path(filename or "?")
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {line}" if line else str(shown)
