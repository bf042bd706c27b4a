# Sourced by the scripts beside it: `environment EXTRA` makes .venv hold what pyproject.toml's EXTRA asks for, in the
# versions of constraints.txt. It does its work once, and again only when one of these two files has changed.
# Afterwards $python is the environment's Python.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$root/.venv
python=$venv/bin/python
cpu_index=https://download.pytorch.org/whl/cpu
published=streamdiffusionv2==0.1.1

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$1"
  exit 1
}

# The first Python that is new enough and can make environments. 3.11 comes first: it is what the tests run on.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# What an installed environment depends on: a change of any of it asks for a new installation.
fingerprint() {
  { echo "$root"; cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum | tr -d ' \n'
}

is_installed() { # EXTRA
  [ -x "$python" ] && [ "$(cat "$venv/installed-$1" 2>/dev/null)" = "$(fingerprint)" ]
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }

answers() { # URL
  "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).read(1)' "$1" 2>/dev/null
}

pip_install() { # arguments of pip install
  if ! "$python" -m pip install --quiet --disable-pip-version-check --no-input -c "$root/constraints.txt" "$@" \
    >"$venv/setup.log" 2>&1; then
    grep -v '^WARNING: Location' "$venv/setup.log" | tail -n 15 >&2
    fail "Could not install what is needed; the lines above say why (all of it: $venv/setup.log). Try again when mended."
  fi
}

# torch comes first and alone: on Linux the default build is the one for NVIDIA GPUs, gigabytes that a machine without
# one has no use for. PyTorch's own index of CPU builds is asked where it answers, next to the index pip is set up for.
install_torch() {
  if [ "$(uname -s)" = Linux ] && ! has_nvidia_gpu && answers "$cpu_index/torch/"; then
    pip_install --extra-index-url "$cpu_index" torch
  else
    pip_install torch
  fi
}

install() { # EXTRA
  if [ "$(cat "$venv/root" 2>/dev/null)" != "$root" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    local base
    base=$(find_python) || fail "streamgen needs Python 3.11 or newer with its venv module; install one and try again."
    "$base" -m venv --clear "$venv" >&2 || fail "Could not make the environment $venv with $base."
    echo "$root" >"$venv/root"
  fi
  say "  1/2 PyTorch"
  install_torch
  say "  2/2 everything else"
  pip_install --editable "$root[$1]"
  # The published code is compared with, not depended on: what it asks for beside torch would take gigabytes.
  case $1 in test | dev) pip_install --no-deps "$published" ;; esac
  local extra
  for extra in $(within "$1"); do fingerprint >"$venv/installed-$extra"; done
}

within() { # EXTRA: the extras that it takes in, itself among them
  case $1 in
    dev) echo serve test dev ;;
    test) echo serve test ;;
    *) echo "$1" ;;
  esac
}

environment() { # EXTRA
  is_installed "$1" && return
  if command -v flock >/dev/null; then # scripts started side by side take turns
    exec 9<"${BASH_SOURCE[0]}"
    flock 9
  fi
  if ! is_installed "$1"; then
    say "Setting up .venv for '$1': once, a few minutes."
    install "$1"
    say "Set up."
  fi
  exec 9<&-
}
