#!/bin/bash
# What runs in the window of a terminal multiplexer. Usage: terminal.sh ROUNDS
x=1
for ((round = 1; round <= $1; round++)); do
	for ((i = 0; i < 3000; i++)); do x=$(((x * 16807) % 2147483647)); done
	printf '\033[1mround %d\033[0m %d\n' "$round" "$x"
	echo "$round $x $(tty | sed 's/[0-9]*$//') $(stty size | wc -w)" >>result
done
