# shellcheck shell=bash disable=SC2154
# Is the last build still the right one? Sourced at every start of ./ceiling, so it must be quick; `root` is the clone.
sources=(base data modules parallel checkpoints train cmake CMakeLists.txt)
# The first line is torch's folder, the others are the fingerprint of what was built with it.
stamp=$root/build/launcher.stamp

# The CUDA compiler, or nothing.
find_nvcc() {
  local nvcc
  for nvcc in "${CUDACXX:-nvcc}" /usr/local/cuda/bin/nvcc; do type -P "$nvcc" && return; done || true
}

# What a build is made of: this folder, the compilers, every source with its size and time. Not the folders' own times,
# which change with each dataset that a user keeps in data/.
fingerprint() {
  printf '%s\n' "$root" "${CXX:-}" "$(find_nvcc)"
  cd "$root" && find "${sources[@]}" -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \
    -o -name '*.cmake' -o -name CMakeLists.txt \) -printf '%p %s %T@\n' | LC_ALL=C sort
}

# True if the program of the last successful build is there with its torch, and its fingerprint has not changed.
is_fresh() {
  local built_torch
  [[ -x $root/build/ceiling && -r $stamp ]] || return 1
  IFS= read -r built_torch <"$stamp" && [[ -e $built_torch/torch/lib/libtorch_cpu.so ]] || return 1
  [[ -z ${CEILING_TORCH:-} || $CEILING_TORCH -ef $built_torch ]] || return 1
  # A build made where no GPU was may lack the CUDA half of torch (login node, then GPU node).
  [[ ! -e /dev/nvidiactl || -e $built_torch/torch/lib/libtorch_cuda.so && ! -e $built_torch/without-cuda ]] || return 1
  cmp -s <(tail -n +2 "$stamp") <(fingerprint)
}
