# shellcheck shell=bash
# Shared by ./check and ./demo: makes .venv with the project and all its extras, once.
#
# It is sourced with ROOT set to the checkout, and gives ROOT/.venv/bin/python. The virtual
# environment is kept as long as pyproject.toml and the Python that made it stay the same.

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 2
}

# Prints what runs a command as root: nothing for root itself, "sudo" where it asks for nothing.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

# apt_install PACKAGE...: installs Debian packages by name; fails where that cannot be done.
apt_install() {
    command -v apt-get >/dev/null || return 1
    say "installing with apt-get: $*"
    as_root apt-get update -qq || return 1
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python=$1 venv=$2
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install python3-venv && "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$python cannot make virtual environments: its venv module is missing." \
                "On Debian and Ubuntu:  sudo apt-get install python3-venv"
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv" || die "could not make the virtual environment $venv"
}

bootstrap() {
    local venv="$ROOT/.venv" python stamp want
    python=$(find_python) || {
        apt_install python3 python3-venv && python=$(find_python)
    } || die "Python 3.11 or newer is needed, and there is none here." \
        "On Debian 12 and newer:  sudo apt-get install python3 python3-venv" \
        "Or name one:             PYTHON=/path/to/python3.12 ${0}"
    stamp="$venv/.made-from"
    want="$(sha256sum "$ROOT/pyproject.toml" | cut -d' ' -f1) $("$python" -V) $ROOT"

    # Two commands started together must not make it twice.
    exec 9<"$ROOT/pyproject.toml"
    command -v flock >/dev/null && flock 9
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || ! [ -x "$venv/bin/python" ]; then
        if ! [ -x "$venv/bin/python" ] ||
            [ "$(cut -d' ' -f2- "$stamp" 2>/dev/null)" != "$(cut -d' ' -f2- <<<"$want")" ]; then
            say "making .venv with $("$python" -V)"
            make_venv "$python" "$venv"
        fi
        say "installing sluicegate and what it needs into .venv (once; a minute or two)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable "$ROOT[dev,test,demo]" ||
            die "pip could not install the dependencies (see above)." \
                "Is there a network? Once there is, run ${0} again."
        printf '%s' "$want" >"$stamp"
    fi
    exec 9<&-
}
