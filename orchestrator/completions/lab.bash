# shellcheck shell=bash
# Completion of lab for bash. To use it:  source <(lab completion bash)
# or for all shells from now on:
#   lab completion bash > ~/.local/share/bash-completion/completions/lab

_lab() {
	local line current=${COMP_WORDS[COMP_CWORD]}
	local -a words=("${COMP_WORDS[@]:1:COMP_CWORD}")
	COMPREPLY=()
	[ "$current" = = ] && current=
	while IFS= read -r line; do
		case $line in
		:files)
			compopt -o filenames
			while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
			;;
		:folders)
			compopt -o filenames
			while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$current")
			;;
		*) COMPREPLY+=("${line%%$'\t'*}") ;;
		esac
	done < <("${COMP_WORDS[0]/#\~/$HOME}" completion --words "${words[@]/#/:}" 2>/dev/null)
}
complete -F _lab lab
