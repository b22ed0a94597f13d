# shellcheck shell=bash disable=SC2154
# Packages, torch, CMake, Ninja: sourced by the launcher and by scripts that build; `root` is the clone.
# shellcheck source=scripts/fresh.sh
source "$root/scripts/fresh.sh"
# shellcheck source=scripts/lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=scripts/packages.sh
source "$root/scripts/packages.sh"
# shellcheck source=scripts/torch.sh
source "$root/scripts/torch.sh"
build_log=$root/build/build.log

lock_build() {
  mkdir -p "$root/build" 2>/dev/null || true
  [[ -w $root/build ]] || die "cannot write to $root/build: ceiling builds inside its clone; clone it where you may write"
  exec 9>"$root/build/launcher.lock"
  if ! flock -n 9; then
    say "another ./ceiling is building in this clone; waiting for it"
    flock 9
  fi
}
unlock_build() { exec 9>&-; }

# shellcheck disable=SC2329
last_line() { tail -n 1 "$root"/build/packages.log 2>/dev/null | tr -d '\r'; }
# shellcheck disable=SC2329
last_built() { tail -n 5 "$build_log" | grep '^\[' | tail -n 1; }

check_tools() {
  local tool version
  for tool in cmake ninja python3; do
    command -v "$tool" >/dev/null || die "'$tool' is not in PATH; the build needs: ${needed_packages[*]}" "PATH=$PATH"
  done
  command -v "${CXX:-g++}" >/dev/null || die "no C++ compiler '${CXX:-g++}' in PATH; install g++ 12 or newer, or set CXX"
  version=$(printf '__GNUC__ __clang_major__' | "${CXX:-g++}" -E -P -x c++ - 2>/dev/null)
  if [[ $version =~ ^([0-9]+)\ __clang_major__$ ]] && ((BASH_REMATCH[1] < 12)); then
    die "'${CXX:-g++}' is GCC ${BASH_REMATCH[1]}; ceiling is C++20 and needs GCC 12 or newer. Install one, then for example:" \
      "CXX=g++-12 ./ceiling"
  fi
  version=$(cmake --version | awk 'NR == 1 { print $3 }')
  [[ $(printf '3.25\n%s\n' "$version" | sort -V | head -n 1) == 3.25 ]] || die "CMake is $version; 3.25 or newer is needed"
}

# As many compilers as there are cores, and 1.5 GB of free memory for each.
jobs() {
  local cores memory limit
  cores=$(nproc)
  memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit != max ]] && ((limit / 1048576 < memory)); then memory=$((limit / 1048576)); fi
  memory=$((memory / 1500))
  ((cores <= memory)) && echo "$cores" || echo $((memory > 1 ? memory : 1))
}

build_failed() {
  local errors
  clear_line
  errors=$(grep -nE '(error:|FAILED:|CMake Error|fatal:|No space left|Killed|undefined reference)' "$build_log" | head -n 12) || true
  printf '%s\n' "${errors:-$(tail -n 15 "$build_log")}" >&2
  if grep -q 'No space left' "$build_log"; then die "the disk is full; whole log: $build_log"; fi
  if grep -q 'Killed signal' "$build_log"; then
    die "the compiler was killed, probably for want of memory; run again: what is built stays built. Log: $build_log"
  fi
  die "the build failed; whole log: $build_log"
}

# configured OPTION...: this clone's build folder is configured with these values.
configured() {
  local option value cached=$root/build/CMakeCache.txt
  [[ -e $root/build/build.ninja ]] && grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cached" || return 1
  for option in "$@"; do
    option=${option#-D}
    value=$(sed -n "s/^${option%%=*}:[A-Z]*=//p" "$cached")
    [[ ${value%%*NOTFOUND} == "${option#*=}" ]] || return 1
  done
}

configure() {
  local nvcc options
  nvcc=$(find_nvcc)
  [[ -e $torch/torch/lib/libtorch_cuda.so ]] || nvcc= # a CPU-only LibTorch
  options=("-DCEILING_TORCH=$torch" "-DCMAKE_CUDA_COMPILER=$nvcc")
  if [[ -n $nvcc ]]; then
    find_cudnn_frontend
    options+=("-DCEILING_CUDNN_FRONTEND=$cudnn_frontend")
  fi
  if [[ -n ${CXX:-} ]]; then options+=("-DCMAKE_CXX_COMPILER=$(type -P "$CXX")"); fi
  if configured "${options[@]}"; then return; fi
  # Another clone's build, another torch or compiler: the old one is everywhere in it. ccache keeps this quick.
  find "$root/build" -mindepth 1 -maxdepth 1 ! -name 'launcher.*' ! -name '*.log' -exec rm -rf {} +
  run_step "configuring with torch from $torch" "$build_log" last_built \
    cmake -S "$root" -B "$root/build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${options[@]}" || build_failed
}

# build TARGET...: needs the lock. The fingerprint is taken before: a file saved during the build is not in it.
build() {
  local built count
  built=$(fingerprint)
  install_packages
  check_tools
  find_torch
  [[ -x $root/build/ceiling ]] || need_disk "$root/build" 2048 "the build"
  : >"$build_log"
  configure
  count=$(jobs)
  run_step "building $* with $count jobs (log: $build_log)" "$build_log" last_built \
    env NINJA_STATUS='[%f/%t] ' ninja -C "$root/build" -j "$count" "$@" || build_failed
  printf '%s\n%s\n' "$torch" "$built" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}
