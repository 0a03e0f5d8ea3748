#!/usr/bin/env bash
# Makes .venv with what EXTRA (dev or demo) asks for, and Debian packages where apt may install them. Does nothing when all is there.
# Usage: scripts/setup.sh EXTRA        PYTHON=… names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:?usage: scripts/setup.sh EXTRA}
venv=.venv
stamp=$venv/.installed-$extra
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || return 1
  local options=(-y -qq --no-install-recommends -o DPkg::Lock::Timeout=60 -o Acquire::Retries=2)
  say "installing $* by apt-get"
  as_root timeout 300 env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" >/dev/null 2>&1 && return 0
  as_root timeout 180 apt-get update -qq >/dev/null 2>&1 || return 1
  as_root timeout 300 env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" >/dev/null
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
    if command -v "$name" >/dev/null && new_enough "$name"; then command -v "$name"; return 0; fi
  done
  return 1
}

make_venv() {
  local python
  if ! python=$(find_python); then
    apt_install python3 python3-venv && python=$(find_python) || {
      say "no Python 3.11 or newer. Install one (Debian: apt-get install python3 python3-venv) or name it with PYTHON=…"
      exit 1
    }
  fi
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    apt_install "$(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv" || {
      say "$python cannot make virtual environments. Install its venv package (Debian: apt-get install python3-venv)."
      exit 1
    }
  fi
  say "making $venv with $("$python" --version)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

# Compiles a twin's converters during the installation; without it everything works, and twins take longer.
ensure_compiler() {
  command -v "${CC:-cc}" >/dev/null || apt_install gcc libc6-dev || say "no C compiler: twins will take longer."
}

install_packages() {
  say "installing hyle[$extra] into $venv"
  # Old pips build some packages that new ones find as wheels.
  "$venv/bin/python" -m pip install -q --upgrade pip
  local wanted=$extra
  [ "$extra" = dev ] && wanted=dev,demo,train
  "$venv/bin/python" -m pip install -q -c constraints.txt -e ".[$wanted]" || {
    say "pip could not install. See that a package index can be reached, then run the same command again."
    exit 1
  }
  touch "$stamp"
}

# Programs and libraries that tests use where they are; what cannot be had, the tests skip and say so.
debian_packages() {
  local name
  for name in mosquitto; do command -v "$name" >/dev/null || echo "$name"; done
  [ "$extra" = dev ] || return 0
  for name in ngspice pulseaudio iiod chromium; do command -v "$name" >/dev/null || echo "$name"; done
  command -v pactl >/dev/null || echo pulseaudio-utils
  command -v h2load >/dev/null || echo nghttp2-client
  command -v iio_info >/dev/null || echo libiio-utils
  command -v chromedriver >/dev/null || echo chromium-driver
  [ -e /usr/lib/ladspa/valve_1209.so ] || echo swh-plugins
  ldconfig -p | grep -q libportaudio || echo libportaudio2
  ldconfig -p | grep -q libiio || echo libiio0
  command -v g++ >/dev/null || echo g++
  command -v strace >/dev/null || echo strace
  PATH=$PATH:/usr/sbin:/sbin command -v mkfs.ext4 >/dev/null || echo e2fsprogs
  ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || echo libfaketime
  pkg-config --exists cairo 2>/dev/null || printf 'pkg-config\nlibcairo2-dev\n'
  command -v npm >/dev/null || printf 'nodejs\nnpm\n'
  ls /usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so >/dev/null 2>&1 || echo libasound2-plugins
}

ensure_debian() {
  local missing
  mapfile -t missing < <(debian_packages)
  [ "${#missing[@]}" -eq 0 ] && return 0
  [ "$(cat "$venv/.without" 2>/dev/null)" = "${missing[*]}" ] && return 0
  apt_install "${missing[@]}" || true
  mapfile -t missing < <(debian_packages)
  [ "${#missing[@]}" -eq 0 ] && return 0
  echo "${missing[*]}" > "$venv/.without"
  say "apt-get could not bring: ${missing[*]}. Tests that need them are skipped; without mosquitto the demo uses its embedded broker."
}

# The circuit simulator that wires are held against; it builds on this machine and may not.
ensure_oracles() {
  [ "$extra" = dev ] || return 0
  "$venv/bin/python" -c 'import badcrossbar' 2>/dev/null && return 0
  [ -e "$venv/.no-oracles" ] && return 0
  "$venv/bin/python" -m pip install -q -c constraints.txt -e ".[oracles]" >/dev/null 2>&1 && return 0
  touch "$venv/.no-oracles"
  say "badcrossbar could not be built; tests against it are skipped."
}

# The example device in JavaScript, for the test of drivers in another language.
ensure_node_example() {
  local example=examples/substrate_node
  [ "$extra" = dev ] && command -v npm >/dev/null || return 0
  [ -d "$example/node_modules" ] && return 0
  timeout 180 npm install --prefix "$example" --no-package-lock --ignore-scripts --no-audit --no-fund --silent >/dev/null 2>&1 ||
    say "npm could not install what $example needs; its tests are skipped."
}

if ! [ -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then make_venv; fi
if ! [ -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ] ||
  [ runtime/hyle_runtime/kernels/converters.c -nt "$stamp" ]; then
  ensure_compiler
  install_packages
fi
ensure_debian
ensure_oracles
ensure_node_example
