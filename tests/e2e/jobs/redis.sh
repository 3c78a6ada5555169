#!/bin/bash
# redis-server and redis-cli, over TCP on loopback and over a Unix socket. Usage: redis.sh ROUNDS PORT
set -euo pipefail
redis-server --port "$2" --bind 127.0.0.1 --unixsocket "$PWD/redis.sock" --save '' --appendonly yes \
	--dir "$PWD" --logfile "$PWD/redis.log" --daemonize no &
server=$!
until redis-cli -s redis.sock ping >/dev/null 2>&1; do sleep 0.05; done
for ((round = 1; round <= $1; round++)); do
	seq "$round" "$((round + 800))" | awk '{ print "SET key" $1 % 500, "value" $1 * 31; print "INCRBY sum", $1 }' |
		redis-cli -p "$2" | cksum
	redis-cli -s redis.sock eval 'local s = 0
		for i = 0, 499 do s = s + #(redis.call("GET", "key" .. i) or "") end
		return {s, redis.call("GET", "sum")}' 0 | paste -sd' '
done
redis-cli -p "$2" shutdown nosave
wait "$server"
echo "server: $?"
