#!/usr/bin/env bash
# Guess: a site that mkdocs-material builds with its plugin `offline` needs no network: opened from a folder, it can be read
# and searched.
# Seen: every page loads the script iframe-worker/shim from another host, without which search does not appear when the page is
# opened as a file. The plugin `privacy` would fetch the script while building, so then the build needs the network. A
# file of one's own under `extra.polyfills` whose name has `iframe-worker` in it takes the script's place.
# For a manual that is shipped in a folder this means a search box that is missing exactly where it was meant for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.1 2> "$folder/errors" ||
  { cat "$folder/errors" >&2; exit 1; }
"$folder/venv/bin/pip" list --disable-pip-version-check 2> /dev/null | grep -E '^mkdocs(-material)? '
mkdir "$folder/docs"
echo '# A page' > "$folder/docs/index.md"
build() {
  "$folder/venv/bin/mkdocs" build --quiet --strict --config-file "$folder/mkdocs.yml" --site-dir "$folder/site" > /dev/null 2>&1
  echo "$1: $(grep -c 'src="https://' "$folder/site/index.html" || true) line(s) of index.html load a script from another host"
}
cat > "$folder/mkdocs.yml" <<'YAML'
site_name: a
theme: {name: material, font: false}
plugins: [search, offline]
YAML
build "offline"
grep -q 'src="https://[^"]*/iframe-worker/shim"' "$folder/site/index.html" ||
  { echo "it loads nothing now: this finding is out of date" >&2; exit 1; }
echo 'extra: {polyfills: [assets/iframe-worker.js]}' >> "$folder/mkdocs.yml"
build "offline, with a file of one's own"
! grep -q 'src="https://' "$folder/site/index.html" || { echo "the file does not take its place: out of date" >&2; exit 1; }
