#!/bin/bash
# PostgreSQL lives inside the job, from initdb to its end. Usage: postgres.sh ROUNDS
set -euo pipefail
PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH
export PGHOST=$PWD/data PGDATABASE=postgres PGDATA=$PWD/data
initdb -U job -A trust --no-sync -D data --locale=C -E UTF8 >initdb.log 2>&1
pg_ctl -w -l server.log -o "-c listen_addresses='' -k $PGDATA" start >start.log
export PGUSER=job
psql -q -c 'CREATE TABLE item(id int PRIMARY KEY, round int, a bigint, b text)'
for ((round = 1; round <= $1; round++)); do
	psql -q -v ON_ERROR_STOP=1 <<-END
		INSERT INTO item SELECT i, $round, i::bigint * 7919 % 1000003, md5(i::text)
			FROM generate_series($round * 2000, $round * 2000 + 1999) AS i;
		UPDATE item SET b = md5(b) WHERE a % 3 = $round % 3;
		DELETE FROM item WHERE id % 997 = $round;
	END
	psql -At -c 'SELECT count(*), sum(a), md5(string_agg(b, chr(44) ORDER BY id)) FROM item'
done
pg_ctl -w stop >stop.log
