#!/bin/sh
# Every command and every option that pawl offers is in its man page, and no other option is.
# Usage: man_page.sh PAWL MAN_PAGE
set -eu
pawl=$1
man=$2
failed=0
fail() {
	echo "$*" >&2
	failed=1
}

# roff's escapes undone: "\-" is "-", font changes are dropped
page=$(sed 's/\\-/-/g; s/\\f[BIRP]//g' "$man")
offered=
for command in $("$pawl" --help | sed -n '/^commands:/,$s/^  \([a-z]*\) .*/\1/p'); do
	printf '%s\n' "$page" | grep -q "^\.SS pawl $command\$" || fail "no section on pawl $command"
	for option in $("$pawl" "$command" --help | sed -n 's/^ \{2,6\}\(-[a-z], \)\{0,1\}\(--[a-z-]*\).*/\2/p'); do
		offered="$offered $option "
		printf '%s\n' "$page" | grep -qe "$option" || fail "pawl $command $option is not documented"
	done
done
[ -n "$offered" ] || fail "no options found"
# (other programs' commands have their own)
for option in $(printf '%s\n' "$page" | grep -v '^systemctl ' | grep -o -e '--[a-z][a-z-]*' | sort -u); do
	case "$offered --version " in
	*" $option "*) ;;
	*) fail "the man page has $option, which no command offers" ;;
	esac
done
exit "$failed"
