#!/usr/bin/env bash
# Sets up a machine that has Python >= 3.10 and nothing else: system libraries, a virtual environment, pinned dependencies,
# ROS 2 (the sourced one, else the wheels of the package index). Does nothing when nothing has changed since the last time.
# VENV, PYTHON: the virtual environment's folder, the interpreter to make it with. WHEELS: whose wheels, kilted or jazzy.
# TORCH=without: leaves out torch and all that asks for it. A virtual environment remembers the last two.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
STAMP="$VENV/.setup_stamp"
TORCH=${TORCH:-}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'set-up: %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Install Debian packages when root, else print how; fails when they are not installed in the end.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "please install what Debian calls $*"
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        say "please run: sudo apt-get install --no-install-recommends $*"
        return 1
    fi
    say "installing $*"
    apt-get update -qq </dev/null || say "'apt-get update' failed; going on with the package lists at hand"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# Whether this Python imports the rclpy of a sourced ROS installation, rather than one inside its own virtual environment.
sees_sourced_ros() {
    [ -n "${ROS_DISTRO:-}" ] && "$1" -c 'import rclpy, sys
sys.exit(sys.prefix != sys.base_prefix and rclpy.__file__.startswith(sys.prefix))' 2>/dev/null
}

# The interpreter for the virtual environment: PYTHON if set, else one that sees the sourced ROS, else one new enough.
choose_python() {
    local candidate candidates="${PYTHON:-python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3.10}"
    for candidate in $candidates; do
        if new_enough "$candidate" && sees_sourced_ros "$candidate"; then echo "$candidate"; return; fi
    done
    for candidate in $candidates; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    die "Python 3.10 or newer was not found among: $candidates. Install it (apt-get install python3) or set PYTHON to its path."
}

make_venv() {
    local python flags=()
    python=$(choose_python)
    if sees_sourced_ros "$python"; then
        flags=(--system-site-packages)
    elif [ -n "${ROS_DISTRO:-}" ]; then
        say "ROS_DISTRO is '$ROS_DISTRO', but $python cannot import rclpy; taking ROS 2 from the package index instead" \
            "(source the ROS installation's setup.bash to use that)"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" ||
            die "$python cannot make virtual environments; install the package named above and run this again."
    fi
    say "making $VENV with $("$python" --version)"
    "$python" -m venv "${flags[@]}" "$VENV"
}

# The distribution whose wheels are in the virtual environment; nothing when there are none.
wheels_in_venv() {
    local metadata name
    for metadata in "$VENV"/lib/python3*/site-packages/ros_*_rclpy-*.dist-info; do
        if [ -d "$metadata" ]; then name=${metadata##*/ros_} && echo "${name%%_rclpy-*}"; fi
    done
}

pair_of_venv() { # such as py311-kilted
    local distribution=${WHEELS:-$(wheels_in_venv)}
    if sees_sourced_ros "$VENV/bin/python"; then
        [ -z "${WHEELS:-}" ] || die "WHEELS is '$WHEELS', but this shell has sourced ROS 2 '$ROS_DISTRO', which is taken before any wheels." \
            "Unset WHEELS, or start from a shell that does not source it."
        distribution=$ROS_DISTRO
    fi
    "$VENV/bin/python" -c 'import sys; print("py%d%d-%s" % (*sys.version_info[:2], sys.argv[1]))' "${distribution:-kilted}"
}

# What the set-up is made from; PWD, since programs in a virtual environment hold its path.
fingerprint() {
    { echo "$1 $PWD $TORCH"; cat requirements/*.txt "constraints/$1.txt" setup.py scripts/setup.sh 2>/dev/null; } | sha256sum | cut -d' ' -f1
}

rendering_libraries() {
    local missing=() package
    command -v dpkg-query >/dev/null || return 0
    for package in libegl1 libgl1-mesa-dri; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}" ||
        say "without these the simulated camera cannot render; everything else works, so the set-up goes on"
}

# One test opens the replay report in a browser, and is skipped without one; nothing else needs it.
browser_for_tests() {
    local name
    for name in chromium chromium-browser google-chrome chrome; do
        ! command -v "$name" >/dev/null || return 0
    done
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && apt_install chromium fonts-dejavu-core ||
        say "without Chromium the replay report is not tested in a browser; everything else works, so the set-up goes on"
}

dependencies() {
    local pair=$1 constraints="constraints/$1.txt" files=(-r requirements/base.txt -r requirements/export.txt -r requirements/test.txt) pip
    pip=("$VENV/bin/python" -m pip install --no-input)
    [ -t 1 ] || pip+=(-q)
    if [ ! -f "$constraints" ]; then
        say "there is no $constraints: versions are not pinned for this pair of Python and ROS, and have not been tried together"
        constraints=/dev/null
    fi
    sees_sourced_ros "$VENV/bin/python" || files+=(-r requirements/ros.txt)
    if [ "$TORCH" = without ]; then
        say "without torch: the command node, robot files, recordings and views work; policies, training and detection do not"
    else
        say "torch (for a machine without a GPU, its CPU build spares gigabytes: see README)"
        "${pip[@]}" -c "$constraints" -r requirements/torch.txt
        files+=(-r requirements/with_torch.txt)
    fi
    say "everything else"
    WHEELS=${pair#*-} "${pip[@]}" -c "$constraints" "${files[@]}"
    "${pip[@]}" -c "$constraints" --no-deps -r requirements/no_deps.txt -r requirements/benchmarks.txt
    "${pip[@]}" --no-deps --no-build-isolation -e .
}

case "${WHEELS:-kilted}" in kilted | jazzy) ;; *) die "WHEELS is '$WHEELS'; there are wheels of kilted and jazzy." ;; esac
case "$TORCH" in "" | without) ;; *) die "TORCH is '$TORCH'; leave it unset, or say TORCH=without." ;; esac
if [ -f "$STAMP" ] && [ -x "$VENV/bin/python" ]; then
    pair=$(pair_of_venv)
    read -r made_for made_from made_how <"$STAMP"
    TORCH=${TORCH:-${made_how:-}}
    [ "$made_for" = "$pair" ] ||
        die "$VENV was set up for $made_for, but this shell has $pair. Source (or do not source) the same ROS installation as then," \
            "and give the same WHEELS; or remove $VENV, or set VENV to another folder, and run this again."
    [ "$TORCH" = "${made_how:-}" ] || die "$VENV was set up with torch; set VENV to another folder, and run this again."
    [ "$made_from" != "$(fingerprint "$pair")" ] || exit 0
fi
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
rendering_libraries
browser_for_tests
pair=$(pair_of_venv)
dependencies "$pair"
needed="rclpy, flow_policy_ros"
[ "$TORCH" = without ] || needed="torch, $needed"
"$VENV/bin/python" -c "import $needed" ||
    die "the set-up ran, but one of $needed cannot be imported (see above). Remove $VENV and run this again;" \
        "with a ROS installation of another Python on PYTHONPATH, start from a shell that does not source it."
echo "$pair $(fingerprint "$pair") $TORCH" >"$STAMP"
say "done, for $pair${TORCH:+, $TORCH torch}"
