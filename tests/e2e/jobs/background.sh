#!/bin/bash
# Background jobs, wait, traps, a coprocess, a here-document. Usage: background.sh ROUNDS
rounds=$1
work() {
	local i x=$1
	for ((i = 0; i < 9000; i++)); do x=$(((x * 1103515245 + 12345) % 2147483648)); done
	echo "$1 $x" >"part.$1"
	return $(($1 % 5))
}
trap 'echo "signal USR1 in round $round"' USR1
coproc adder { while read -r a b; do echo $((a + b)); done; }
for ((round = 1; round <= rounds; round++)); do
	pids=()
	for n in 1 2 3 4; do
		work $((round * 10 + n)) &
		pids+=($!)
	done
	statuses=()
	for pid in "${pids[@]}"; do
		wait "$pid"
		statuses+=($?)
	done
	kill -USR1 $$
	echo "$round ${round}000" >&"${adder[1]}"
	read -r sum <&"${adder[0]}"
	echo "round $round: ${statuses[*]} $sum $(cat part."$round"? | cksum)"
done
cat <<END
$rounds rounds
END
