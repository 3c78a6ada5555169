# bash completion for pawl

_pawl_jobs()
{
	local args=()
	[[ -n $_pawl_store ]] && args=(--store "$_pawl_store")
	pawl list --json "${args[@]}" 2>/dev/null | sed -n 's/^    "name": "\(.*\)",$/\1/p'
}

# NAME@1 NAME@2 … of the job that the word begins with
_pawl_snapshots()
{
	local job=${1%%@*} args=()
	[[ -n $_pawl_store ]] && args=(--store "$_pawl_store")
	pawl list "$job" --json "${args[@]}" 2>/dev/null |
		sed -n "s/^    \"seq\": \([0-9]*\),\$/$job@\1/p"
}

_pawl_options()
{
	pawl "$1" --help 2>/dev/null | grep -o -- '^ \{2,6\}\(-[a-z], \)\?--[a-z-]*' | grep -o -- '--[a-z-]*'
}

_pawl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} _pawl_store='' i
	local commands='run attach recover snapshot stop list show diff log push pull send receive migrate verify export rm gc doctor'

	# The line is not split at '@' here, so that JOB@N is one word.
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n '@=:' cur prev
	fi
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		mapfile -t COMPREPLY < <(compgen -W "$commands help --help --version" -- "$cur")
		return
	fi
	for ((i = 2; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == --store ]] && _pawl_store=${COMP_WORDS[i + 1]}
		# From the command on, the command's own completion applies.
		if [[ $command == run && ${COMP_WORDS[i]} == -- ]]; then
			_pawl_command_offset $((i + 1))
			return
		fi
	done
	case $prev in
	--store | --save-dir)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	--nice)
		mapfile -t COMPREPLY < <(compgen -W '0 5 10 19 idle' -- "$cur")
		return ;;
	--metrics)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return ;;
	--compress)
		mapfile -t COMPREPLY < <(compgen -W 'lz4 zstd none' -- "$cur")
		return ;;
	--cpu-baseline)
		mapfile -t COMPREPLY < <(compgen -W 'x86-64-v2 x86-64-v3 x86-64-v4' -- "$cur")
		return ;;
	--tracker)
		mapfile -t COMPREPLY < <(compgen -W 'auto pagemap soft-dirty none' -- "$cur")
		return ;;
	--on-fenced)
		mapfile -t COMPREPLY < <(compgen -W 'stop warn' -- "$cur")
		return ;;
	--replicate | --from)
		mapfile -t COMPREPLY < <(compgen -W 'dir:/ ssh://' -- "$cur")
		return ;;
	--on-unsupported)
		mapfile -t COMPREPLY < <(compgen -W 'warn fail' -- "$cur")
		return ;;
	--connections)
		mapfile -t COMPREPLY < <(compgen -W 'refuse reset' -- "$cur")
		return ;;
	--files)
		mapfile -t COMPREPLY < <(compgen -W 'save truncate leave fail' -- "$cur")
		return ;;
	--stream)
		mapfile -t COMPREPLY < <(compgen -W 'stdout stderr terminal' -- "$cur")
		return ;;
	-i | --interval)
		mapfile -t COMPREPLY < <(compgen -W '30s 5m 1h auto never' -- "$cur")
		return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_pawl_options "$command")" -- "$cur")
		return
	fi
	case $command in
	snapshot | stop | list | log | migrate)
		mapfile -t COMPREPLY < <(compgen -W "$(_pawl_jobs)" -- "$cur") ;;
	recover | show | diff | send | verify | export | rm)
		if [[ $cur == *@* ]]; then
			mapfile -t COMPREPLY < <(compgen -W "$(_pawl_snapshots "$cur")" -- "$cur")
		else
			mapfile -t COMPREPLY < <(compgen -W "$(_pawl_jobs)" -- "$cur")
		fi ;;
	attach)
		mapfile -t COMPREPLY < <(ps -u "$(id -u)" -o pid= | tr -d ' ' | grep "^$cur") ;;
	run)
		mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
	help)
		mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur") ;;
	esac
}

_pawl_command_offset()
{
	if declare -F _command_offset >/dev/null; then
		_command_offset "$1"
	else
		mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
	fi
}

complete -o default -F _pawl pawl
