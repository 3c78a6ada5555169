#!/bin/bash
# Pipelines of every kind that scripts are made of. Usage: pipeline.sh ROUNDS
set -euo pipefail
rounds=$1
export TMPDIR=$PWD
producer() {
	awk -v seed="$1" 'BEGIN {
		x = seed
		for (i = 0; i < 30000; i++) { x = (x * 16807) % 2147483647; print x % 9973, x }
	}'
}
for ((round = 1; round <= rounds; round++)); do
	producer "$round" | grep -v '7$' | sort -S 1M -n -k1,1 -k2,2 | gzip -n >"out.$round.gz"
	while read -r key value; do
		[ "$key" -ne 5 ] || echo "$round $key $value"
	done < <(zcat "out.$round.gz" | head -200)
	sum=$(zcat "out.$round.gz" | tee >(wc -c >"size.$round") | cksum)
	while [ ! -s "size.$round" ]; do sleep 0.01; done
	echo "round $round: $sum"
done
tail -n +1 size.* | sha256sum
