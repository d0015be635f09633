# shellcheck shell=bash
# The environment of every script here: `.venv` in the repository, made when missing and installed into only
# when something has changed. Sourced, not run. Bash 3.2 is enough, as macOS has no other.
#
# A stamp in .venv holds the fingerprint of what was installed: `serve` is the package as a user gets it, `dev` the
# package in place with everything that the checks and the tests need. Each install removes the other's stamp.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
venv_python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONDONTWRITEBYTECODE # each process that a test starts would compile everything anew, which takes a third of its start

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

can_make_environments() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Prints a Python of at least 3.11 that can make environments; otherwise says what to install.
find_python() {
  local candidate recent=""
  for candidate in python3.13 python3.12 python3.11 python3 python3.14 python /usr/bin/python3; do
    is_recent "$candidate" || continue
    if can_make_environments "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
    recent=${recent:-$candidate}
  done
  if [ -z "$recent" ]; then
    fail "Innkeeper needs Python 3.11 or newer, and there is none on the PATH." \
      "Debian: sudo apt install python3 python3-venv. macOS: brew install python@3.13, or https://www.python.org/downloads/"
  fi
  fail "$("$recent" --version) was found, but it cannot make environments: its ensurepip module is missing." \
    "Debian and Ubuntu keep it in a package of its own: sudo apt install" \
    "python$("$recent" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
}

make_environment() {
  if "$venv_python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    return
  fi
  local python
  python=$(find_python)
  say "Making an environment in .venv with $("$python" --version) ..."
  "$python" -m venv --clear "$venv"
}

# fingerprint [FOLDER]: of pyproject.toml, the Python and, where one is named, the files in a folder.
fingerprint() {
  "$venv_python" - "$root" "$@" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
files = [root / "pyproject.toml"]
for folder in sys.argv[2:]:
    files += sorted(p for p in (root / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
digest = hashlib.sha256(f"{sys.version} {root}".encode())
for file in files:
    digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
print(digest.hexdigest())
PYTHON
}

is_stamped() { [ -f "$venv/$1.stamp" ] && [ "$(cat "$venv/$1.stamp")" = "$2" ]; }

# pip_install ARGUMENT...: shows what is being downloaded, and pip's errors, but not its hundred other lines.
pip_install() {
  PYTHONUNBUFFERED=1 "$venv_python" -m pip install "$@" |
    awk '/^ *Downloading / && !/\.metadata/ { sub(/^ */, "  "); print; fflush() }' >&2
}

# For scripts/serve. An environment for development will do as well.
install_for_serving() {
  make_environment
  if is_stamped dev "$(fingerprint)"; then return; fi
  local wanted
  wanted=$(fingerprint src)
  if is_stamped serve "$wanted"; then return; fi
  say "Installing Innkeeper and the runtime of its local model (some 60 MB the first time) ..."
  rm -f "$venv/dev.stamp" "$venv/serve.stamp"
  pip_install "${root}[local]"
  printf '%s\n' "$wanted" >"$venv/serve.stamp"
}

# For the checks, the tests and the benchmarks: the package in place, its extras and the development group.
install_for_development() {
  make_environment
  local wanted
  wanted=$(fingerprint)
  if is_stamped dev "$wanted"; then return; fi
  rm -f "$venv/dev.stamp" "$venv/serve.stamp"
  say "Updating pip ..."
  pip_install --upgrade 'pip>=25.1'
  say "Installing Innkeeper, its extras and the development tools (some 120 MB the first time) ..."
  pip_install --editable "${root}[local,postgres,redis,openai-agents,langgraph,mcp,s3,code,otel,oidc]" --group "$root/pyproject.toml:dev"
  printf '%s\n' "$wanted" >"$venv/dev.stamp"
}
