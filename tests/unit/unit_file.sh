#!/bin/sh
# The systemd unit calls pawl with options that pawl has, and is valid where systemd is here to say so.
# Usage: unit_file.sh PAWL UNIT
set -eu
pawl=$(realpath "$1")
unit=$2
for option in $(sed -n 's/^ExecStart=\(.*\) -- .*/\1/p' "$unit" | grep -o -e '--[a-z-]*'); do
	"$pawl" run --help | grep -q -e "$option " || { echo "pawl run has no $option" >&2; exit 1; }
done
grep -q '^ExecStart=.*/pawl run .* -- ' "$unit"
command -v systemd-analyze >/dev/null || exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
sed "s|^\(Exec[A-Za-z]*=\)[^ ]*|\1$pawl|; /^Documentation=/d" "$unit" >"$dir/pawl@.service"
# Outside of systemd it may fail for reasons of its own: what it says of the file counts.
systemd-analyze verify "$dir/pawl@job.service" >"$dir/said" 2>&1 || true
if grep -e 'pawl@[a-z]*\.service' "$dir/said"; then
	exit 1
fi
