#!/bin/bash
# GNU parallel, results in order. Usage: parallel.sh COUNT
export HOME=$PWD LC_ALL=C TMPDIR=$PWD
mkdir -p .parallel && touch .parallel/will-cite
seq "$1" | parallel -j4 --keep-order \
	'awk "BEGIN { x = {}; for (i = 0; i < 50000; i++) x = (x * 16807) % 2147483647; print {}, x }"' >sorted
cat sorted
seq "$1" | parallel -j4 'echo {} $(({} * {})) >square.{}; exit $(({} % 2))' 
echo "failed: $?"
