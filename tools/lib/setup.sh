# Shared by ./quickstart and ./check: Debian packages, build folders, ownership. Source it from the top folder.

PACKAGES="build-essential cmake ninja-build pkg-config glslang-tools libvulkan1 mesa-vulkan-drivers libvulkan-dev
libvulkan-volk-dev libstb-dev libjansson-dev libwebp-dev libexif-dev libutf8proc-dev zlib1g-dev libcmocka-dev"

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Names of $* that dpkg does not know as installed.
missing_packages() {
    local p
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs what is missing of $*; one line where that cannot be done.
need_packages() {
    command -v dpkg-query >/dev/null || return 0 # not Debian: cmake says what it lacks
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "these Debian packages are missing and there is no apt-get: $missing"
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "these Debian packages are missing; as root: apt-get install $missing"
    fi
    echo "installing $missing"
    local apt="env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
    # shellcheck disable=SC2086
    as_root $apt install -y --no-install-recommends $missing >/dev/null 2>&1 ||
        { as_root $apt update >/dev/null 2>&1 && as_root $apt install -y --no-install-recommends $missing >/dev/null; } ||
        die "apt-get could not install $missing"
}

# configure FOLDER OPTIONS...: a build folder made for another place, or by another user, starts afresh.
configure() {
    local dir=$1
    shift
    if [ -f "$dir/CMakeCache.txt" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$dir/CMakeCache.txt"; then
        rm -rf "$dir"
    fi
    if [ -d "$dir" ] && [ ! -w "$dir" ]; then die "the folder $PWD/$dir belongs to another user; remove it"; fi
    cmake -S . -B "$dir" -G Ninja "$@" >"$dir.log" 2>&1 ||
        { cat "$dir.log" >&2; die "cmake could not configure; the reason stands above"; }
    rm -f "$dir.log"
}

# Through sudo, what was made belongs to whoever called.
give_back() {
    [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID:-}" ] && [ "$(stat -c %u .)" = "$SUDO_UID" ] || return 0
    local d
    for d in build build-asan out; do
        [ ! -e "$d" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$d"
    done
}
