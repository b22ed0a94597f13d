# shellcheck shell=bash disable=SC2154
# The Debian and Ubuntu packages that the build needs: the one list of them.
needed_packages=(
  g++ cmake ninja-build
  libspdlog-dev libfmt-dev libyaml-cpp-dev nlohmann-json3-dev libcli11-dev
  libssl-dev libhdf5-dev zlib1g-dev libzstd-dev libsentencepiece-dev libgtest-dev
  python3 python3-pip python3-venv
)
faster_packages=(ccache mold) # the build is quicker with them and works without

# missing_packages NAME...: those of the names that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || printf '%s\n' "$name"
  done
}

# as_root COMMAND...
as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

# The lists of a fresh image are empty, those of an old one name files that are gone: update, but only then.
apt_install_updating() {
  apt_install "$@" || { as_root apt-get -o DPkg::Lock::Timeout=300 update && apt_install "$@"; }
}

may_become_root() {
  ((EUID == 0)) && return
  command -v sudo >/dev/null || return
  if sudo -n true 2>/dev/null; then return; fi
  [[ -t 0 && -t 2 ]] || return
  say "installing packages needs your password for sudo"
  sudo -v
}

install_packages() {
  local missing faster log=$root/build/packages.log
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "this machine has no apt; the build needs what Debian calls: ${needed_packages[*]} ${faster_packages[*]}"
    return
  fi
  mapfile -t missing < <(missing_packages "${needed_packages[@]}")
  mapfile -t faster < <(missing_packages "${faster_packages[@]}")
  ((${#missing[@]} + ${#faster[@]})) || return 0
  if ! may_become_root; then
    ((${#missing[@]})) || return 0
    die "packages are missing, and installing them needs root. Run this, then ./ceiling again:" \
      "sudo apt-get install --no-install-recommends ${missing[*]} ${faster[*]-}"
  fi
  : >"$log"
  if ((${#missing[@]})); then
    run_step "installing packages: ${missing[*]}" "$log" "last_line" apt_install_updating "${missing[@]}" || {
      tail -n 15 "$log" >&2
      die "apt-get could not install: $(missing_packages "${needed_packages[@]}" | tr '\n' ' ')" \
        "Is this machine offline? The output above is the end of $log." \
        "Install them by hand, then run ./ceiling again."
    }
  fi
  if ((${#faster[@]})); then
    run_step "installing packages that make the build faster: ${faster[*]}" "$log" "last_line" \
      apt_install_updating "${faster[@]}" || say "not installed; going on without: ${faster[*]}"
  fi
}
