# Sourced by quickstart.sh and run_tests.sh: creates .venv in the checkout's root
# and installs this package into it. Sets $root to the checkout's root and $python
# to the environment's Python.
# shellcheck shell=bash
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

die() {
  printf 'error: %s\n' "$@" >&2
  exit 1
}

is_fit() { # Python 3.10 to 3.13, as pyproject.toml asks for
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in python3 python python3.{13,12,11,10}; do
    if is_fit "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  die "Python 3.10 to 3.13 is needed; found: $(python3 --version 2>&1 || true)" \
    'Install one (Debian, Ubuntu: apt install python3 python3-venv) and run this again.'
}

make_venv() {
  local base free_gb
  base=$(find_python)
  "$base" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$base has no venv module (Debian, Ubuntu: apt install python3-venv)."
  free_gb=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
  ((free_gb >= 7)) ||
    die "7 GB of free disk space are needed in $root; there are $free_gb GB."
  echo "Making $root/.venv with $("$base" --version)"
  "$base" -m venv "$root/.venv" || die "could not make $root/.venv"
}

# Explains a failure of pip, from pip's output.
explain_pip() {
  local log=$1
  if grep -qi 'no space left\|disk quota' "$log"; then
    die "The disk is full: 7 GB are needed in $root, and 3 GB in ${TMPDIR:-/tmp}."
  elif grep -qi 'connection broken\|connection error\|NewConnectionError\|name resolution\|network is unreachable\|ProxyError\|timed out\|SSLError' "$log"; then
    die 'The package index cannot be reached: check the network and pip'\''s settings (pip config list).'
  fi
  tail -n 5 "$log" >&2
  die "pip failed; everything it wrote is in $log."
}

# Keeps the large downloads of what pip writes.
show_downloads() {
  local line large='(Downloading|Using cached) ([^-]+)-.*\(([0-9]{2,}\.[0-9] MB)\)'
  while read -r line; do
    if [[ $line =~ $large ]]; then
      echo "  ${BASH_REMATCH[2]} (${BASH_REMATCH[3]})"
    elif [[ $line == 'Installing collected'* ]]; then
      echo "  unpacking $(wc -w <<<"${line#*: }") packages"
    fi
  done
}

# has DISTRIBUTION: whether .venv has it.
has() {
  "$python" -c "import importlib.metadata as m; m.version('$1')" 2>/dev/null
}

# install EXTRAS: pip install -e .[EXTRAS].
install() {
  local extras=$1 log=$root/.venv/install.log
  # The forks use the same folders as OpenMMLab, and mmcv the same as mmcv-lite:
  # keep those that are installed.
  if has onedl-mmengine; then
    extras=onedl${extras#lite}
  elif has mmcv; then
    extras=openmmlab${extras#lite}
  fi
  echo "Installing into $root/.venv (about 5 GB, some minutes the first time)"
  MMCV_WITH_OPS=${MMCV_WITH_OPS:-0} "$python" -m pip install --no-input --progress-bar off --retries 2 \
    -e "${root}[$extras]" 2>&1 | tee "$log" | show_downloads || explain_pip "$log"
}

# setup_env EXTRAS: does nothing if these or more extras were installed from the
# same pyproject.toml and the same compiled sources.
setup_env() {
  local extras=$1 state stamp
  [[ -x $python ]] || make_venv
  is_fit "$python" ||
    die "$root/.venv is damaged, or not of Python 3.10 to 3.13." "Remove it (rm -r $root/.venv) and run this again."
  state=$(cat "$root/pyproject.toml" "$root"/mmirnet/runtime/csrc/{,*/}*.* | cksum)
  for stamp in "$root/.venv/.installed-$extras"*; do
    if [[ -f $stamp && $(<"$stamp") == "$state" ]]; then
      return
    fi
  done
  install "$extras"
  echo "$state" >"$root/.venv/.installed-$extras"
}
