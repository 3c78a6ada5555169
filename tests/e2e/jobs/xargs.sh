#!/bin/sh
# xargs -P4 with a shell, awk and files for each. Usage: xargs.sh COUNT
seq "$1" | xargs -P4 -I{} sh -c \
	'awk "BEGIN { x = {}; for (i = 0; i < 60000; i++) x = (x * 16807) % 2147483647; print {}, x }" >part.{}'
echo "xargs: $?"
seq "$1" | sed 's/^/part./' | xargs cat
