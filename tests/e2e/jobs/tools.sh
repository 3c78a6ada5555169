#!/bin/bash
# Programs with processes and threads of their own: zstd, pigz, rsync, tar, sqlite3 in WAL mode, timeout, flock.
# Usage: tools.sh ROUNDS
set -euo pipefail
for ((round = 1; round <= $1; round++)); do
	awk -v x="$round" 'BEGIN {
		for (i = 0; i < 120000; i++) { x = (x * 16807) % 2147483647; print x % 99991, i }
	}' >"data.$round"
	zstd -q -T0 -12 --rsyncable "data.$round" -o "data.$round.zst"
	pigz -n -p 3 -c "data.$round" >"data.$round.gz"
	mkdir -p tree copy && split -n 6 "data.$round" "tree/part.$round."
	rsync -a --checksum tree/ copy/
	timeout 100 tar -C copy --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner -cf - . |
		flock lock xz -T2 -1 >"copy.$round.tar.xz"
	awk 'NR <= 3000 { print "INSERT INTO t VALUES(" $1 "," $2 ");" }' "data.$round" |
		(echo 'PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE IF NOT EXISTS t(a, b);'; cat) |
		sqlite3 base.db | tail -1
	sqlite3 base.db 'SELECT count(*), sum(a * b) FROM t'
	sha256sum ./*."$round".* | sha256sum
	rm -r tree "data.$round"
done
