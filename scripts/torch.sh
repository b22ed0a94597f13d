# shellcheck shell=bash disable=SC2154
# Finds LibTorch, or fetches the wheel from PyPI into the user's cache, which all clones share.
torch_version=2.11.0
cudnn_frontend_version=1.32.0
# libtorch_cpu.so of this wheel needs these two even on a machine without a GPU.
torch_cpu_wheels=("torch==$torch_version" "nvidia-cuda-cupti==13.0.85" "nvidia-cuda-runtime==13.0.96")
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/ceiling

has_gpu() { [[ -e /dev/nvidiactl ]]; }

# torch_is_right FOLDER: it holds the wanted version, with its CUDA half if this machine has a GPU.
torch_is_right() {
  grep -q "^__version__ = '$torch_version" "$1/torch/version.py" 2>/dev/null || return 1
  [[ -e $1/torch/lib/libtorch_cpu.so ]] || return 1
  if has_gpu; then [[ -e $1/torch/lib/libtorch_cuda.so && ! -e $1/without-cuda ]]; fi
}

# The folder of the torch that the active python3 would import; empty if none. It is not imported: that takes seconds.
python_torch() {
  python3 -c 'import importlib.util as u, os
s = u.find_spec("torch")
if s and s.origin: print(os.path.dirname(os.path.dirname(s.origin)))' 2>/dev/null || true
}

# fetch_wheels FOLDER PIP_ARGUMENTS...: downloads wheels and unzips them into the folder.
fetch_wheels() {
  local folder=$1 python wheel got=
  shift
  mkdir -p "$folder/wheels" "$folder/tmp"
  for python in python3 /usr/bin/python3; do # a Python manager may shadow Debian's by one without wheels
    [[ $python == python3 || ! $(command -v python3) -ef $python ]] || break
    if TMPDIR=$folder/tmp "$python" -m pip download --disable-pip-version-check --no-cache-dir --retries 2 --only-binary=:all: \
      --progress-bar off --dest "$folder/wheels" "$@"; then
      got=yes
      break
    fi
  done
  [[ -n $got ]] || return 1
  for wheel in "$folder"/wheels/*.whl; do
    case ${wheel##*/} in
      torch-* | nvidia_* | cuda_toolkit-*) "$python" -m zipfile -e "$wheel" "$folder" ;;
    esac || return 1
    rm -f "$wheel"
  done
  rm -rf "$folder/wheels" "$folder/tmp"
}

# What the wheel itself asks for to use a GPU, as arguments of pip.
cuda_requirements() {
  sed -n 's/^Requires-Dist: \(\(nvidia-\|cuda-toolkit\)[^;]*\).*/\1/p' "$1"/torch-*.dist-info/METADATA | tr -d ' '
}

fetch_torch() {
  local final=$cache/torch-$torch_version partial=$cache/torch-$torch_version.tmp-$$ log=$cache/torch.log started=$SECONDS
  local requirements
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    die "PyPI's torch wheel that ceiling builds against is for Linux on x86-64; this is $(uname -sm)." \
      "With a LibTorch $torch_version for this machine: CEILING_TORCH=<folder that contains torch/> ./ceiling"
  mkdir -p "$cache" || die "cannot write to $cache; set XDG_CACHE_HOME to a folder with 4 GB of room"
  exec 8>"$cache/torch.lock"
  if ! flock -n 8; then
    say "another ./ceiling is fetching torch into $cache; waiting for it"
    flock 8
  fi
  if ! torch_is_right "$final"; then
    rm -rf "$cache/torch-$torch_version".tmp-* # left by a killed download: nobody else holds the lock
    on_exit+=("rm -rf $(printf %q "$partial")")
    : >"$log"
    # Shown as it grows.
    # shellcheck disable=SC2329,SC2317
    fetched() { du -sm "$cache" 2>/dev/null | awk '{ print $1 " MiB in the cache" }'; }
    if [[ -e $final/without-cuda ]] && grep -q "^__version__ = '$torch_version" "$final/torch/version.py"; then
      cp -a "$final" "$partial" # the CPU half is here: add the rest (hard links would write into files in use)
      rm -f "$partial/without-cuda"
    else
      need_disk "$cache" 4096 "torch"
      run_step "fetching torch $torch_version from PyPI (about 0.6 GB) into $cache" "$log" fetched \
        fetch_wheels "$partial" --no-deps "${torch_cpu_wheels[@]}" || torch_failed "$log"
    fi
    if has_gpu; then
      need_disk "$cache" 8192 "torch's CUDA libraries"
      mapfile -t requirements < <(cuda_requirements "$partial")
      run_step "fetching torch's CUDA libraries (about 2.5 GB)" "$log" fetched \
        fetch_wheels "$partial" "${requirements[@]}" || torch_failed "$log"
    else
      : >"$partial/without-cuda"
    fi
    torch_is_right "$partial" || die "the torch wheel unzipped into $partial is not complete; see $log"
    rm -rf "$final"
    mv -T "$partial" "$final"
    say "torch is in $final ($((SECONDS - started)) s in all)"
  fi
  exec 8>&-
  torch=$final
}

# Sets `cudnn_frontend` to the folder of the headers that cuDNN's attention is built against (cmake/Cudnn.cmake). Empty where
# they cannot be had, for which a build folder asks once: FlashAttention does the work then.
# shellcheck disable=SC2034
find_cudnn_frontend() {
  local final=$cache/cudnn-frontend-$cudnn_frontend_version partial=$cache/cudnn-frontend.tmp-$$ log=$cache/cudnn-frontend.log
  cudnn_frontend=
  if [[ ! -e $final/include/cudnn_frontend.h ]]; then
    [[ ! -e $root/build/build.ninja ]] && mkdir -p "$cache" 2>/dev/null || return 0
    exec 8>"$cache/torch.lock"
    flock 8
    if [[ ! -e $final/include/cudnn_frontend.h ]]; then
      on_exit+=("rm -rf $(printf %q "$partial")")
      : >"$log"
      if run_step "fetching the headers of cudnn-frontend $cudnn_frontend_version from PyPI (12 MB)" "$log" true \
        fetch_wheels "$partial" --no-deps "nvidia-cudnn-frontend==$cudnn_frontend_version"; then
        rm -rf "$final"
        mv -T "$partial" "$final"
      else
        say "without them, attention over a window or packed documents is FlashAttention's, half as fast; see $log"
      fi
    fi
    exec 8>&-
  fi
  [[ ! -e $final/include/cudnn_frontend.h ]] || cudnn_frontend=$final/include
}

torch_failed() {
  grep -v '^WARNING: Retrying' "$1" | tail -n 6 >&2
  die "torch $torch_version could not be fetched; the output above is the end of $1." \
    "Is this machine offline? Run ./ceiling once where it is not, or point to an installed torch $torch_version:" \
    "CEILING_TORCH=<folder that contains torch/> ./ceiling"
}

# Sets `torch` to the folder that contains torch/.
find_torch() {
  if [[ -n ${CEILING_TORCH:-} ]]; then
    torch=$(realpath -- "$CEILING_TORCH" 2>/dev/null) || torch=$CEILING_TORCH
    grep -q "^__version__ = '$torch_version" "$torch/torch/version.py" 2>/dev/null ||
      die "CEILING_TORCH=$CEILING_TORCH: no torch $torch_version there (looked at $torch/torch/version.py)." \
        "Unset it, and ./ceiling finds or fetches the right one."
    return
  fi
  torch=$(python_torch)
  if [[ -z $torch ]] || ! torch_is_right "$torch"; then
    torch=$cache/torch-$torch_version
    torch_is_right "$torch" || fetch_torch
  fi
}
