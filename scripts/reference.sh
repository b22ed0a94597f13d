# shellcheck shell=bash disable=SC2154
# The Python environment of the tests that need torch and transformers: made at first need, shared by all clones.
reference=$cache/reference-venv
reference_tried=

# Made under another name and never moved (a venv holds its own path): the marker, a copy of the requirements, says that it
# is complete and current.
make_reference() {
  local wanted=$root/scripts/reference-requirements.txt log=$cache/reference.log
  if cmp -s "$wanted" "$reference/requirements.txt"; then return 0; fi
  [[ -z $reference_tried ]] || return 1
  reference_tried=yes
  mkdir -p "$cache" && : >"$log" || return 1
  exec 8>"$cache/reference.lock"
  flock 8
  if ! cmp -s "$wanted" "$reference/requirements.txt"; then
    rm -rf "$reference"
    run_step "making the Python environment of the reference tests (5 GB) in $reference" "$log" last_reference \
      install_reference "$wanted" || {
      tail -n 5 "$log" >&2
      rm -rf "$reference"
      exec 8>&-
      return 1
    }
    cp "$wanted" "$reference/requirements.txt"
  fi
  exec 8>&-
}

install_reference() {
  python3 -m venv "$reference" && "$reference/bin/python" -m pip install --progress-bar off --no-cache-dir -r "$1"
}
# shellcheck disable=SC2329
last_reference() { tail -n 1 "$cache/reference.log"; }
