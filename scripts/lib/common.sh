# shellcheck shell=bash
# What the scripts beside this directory share. Sourced, never run.
# The sourcing script has `set -euo pipefail`.

# The project's own directory, whatever the caller's is.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# One place for what is built: a target directory from a user's cargo
# configuration would leave target/release empty.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
target=$CARGO_TARGET_DIR
arch=$(uname -m)
musl_target="$arch-unknown-linux-musl"
me=scripts/$(basename "$0")

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi
# The scripts that source this use these; not each uses all of them.
: "$bold" "$dim" "$red" "$green" "$plain" "$target" "$musl_target"

note() { printf '%s\n' "$me: $*" >&2; }
# The exit statuses are vmbr's own: 1 failed, 2 bad usage, 3 refused before
# anything was touched.
die() { note "$*"; exit 1; }
usage_error() { note "$*"; note "see $me --help"; exit 2; }
refuse() { note "$*"; exit 3; }

# Prints the comment block at the top of the running script: its manual.
print_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

now_ms() { local s=${EPOCHREALTIME/./}; printf '%s\n' "$((s / 1000))"; }

# seconds FROM_MS: how long ago that was, as "1.2 s".
seconds() { local ms=$(($(now_ms) - $1)); printf '%d.%01d s\n' $((ms / 1000)) $((ms % 1000 / 100)); }

# Who owns the tree: files made by a script under sudo shall not be root's.
owner_of_tree() { stat -c %U "$root"; }

# as_owner COMMAND...: runs it as the owner of the tree where we are root and
# the owner is somebody else (`sudo scripts/try`), else as it is.
as_owner() {
    local owner
    owner=$(owner_of_tree)
    if [ "$(id -u)" = 0 ] && [ "$owner" != root ] && [ "$owner" != UNKNOWN ]; then
        # runuser leaves HOME as root's, where the owner's cargo may not write.
        runuser -u "$owner" -- env "HOME=$(getent passwd "$owner" | cut -d: -f6)" "$@"
    else
        "$@"
    fi
}

# as_root COMMAND...: runs it as root, by sudo where we are not.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; as root, run: $*"
    fi
}

# need_root ARGS...: continues as root, through sudo where that is needed.
need_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || refuse "needs root (it makes network namespaces); run it as root"
    note "needs root (it makes network namespaces): continuing with sudo"
    exec sudo --preserve-env=CARGO_TARGET_DIR,NO_COLOR,CARGO_HOME,RUSTUP_HOME env "PATH=$PATH" "$0" "$@"
}

# need_packages COMMAND=PACKAGE...: installs the packages of the commands that
# are missing. A path stands for a file instead of a command.
need_packages() {
    local pair missing=()
    # Debian keeps ip, setcap and capsh where an ordinary user's PATH is not.
    PATH="$PATH:/usr/sbin:/sbin"
    for pair; do
        case ${pair%%=*} in
            /*) [ -e "${pair%%=*}" ] || missing+=("${pair#*=}") ;;
            *) command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        refuse "missing: ${missing[*]} (Debian's names); there is no apt-get here, so install them yourself"
    note "installing ${missing[*]}"
    local log
    log=$(mktemp)
    # The lists of a fresh machine or container are empty or old: fetch them
    # only when the first attempt says so, it takes longer than the packages.
    if ! apt_install "${missing[@]}" >"$log" 2>&1; then
        if ! { as_root apt-get update && apt_install "${missing[@]}"; } >"$log" 2>&1; then
            cat "$log" >&2
            rm -f "$log"
            die "apt-get could not install ${missing[*]} (its words are above)"
        fi
    fi
    rm -f "$log"
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null
}

# need_cargo: puts cargo in PATH, or says how to get one.
need_cargo() {
    local home
    if ! command -v cargo >/dev/null; then
        # sudo resets PATH; rustup puts cargo beneath its user's home.
        home=$(getent passwd "$(owner_of_tree)" | cut -d: -f6)
        local dir
        for dir in "${CARGO_HOME:-$home/.cargo}/bin" "$HOME/.cargo/bin"; do
            if [ -x "$dir/cargo" ]; then PATH="$dir:$PATH"; break; fi
        done
    fi
    if ! command -v cargo >/dev/null; then
        note "there is no cargo here. Get Rust from https://rustup.rs:"
        note "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        note "then run $me again."
        exit 3
    fi
    local want have
    want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(as_owner rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n1)" != "$want" ]; then
        refuse "rustc $have is too old, vmbr needs $want: rustup update, or https://rustup.rs"
    fi
}
