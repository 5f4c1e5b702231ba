#compdef lab
# Completion of lab for zsh. To use it:  source <(lab completion zsh)
# or for all shells from now on, in a folder of $fpath:
#   lab completion zsh > ~/.zfunc/_lab

_lab() {
	local line word
	local -a lines described
	lines=("${(@f)$(${~words[1]} completion --words "${(@)words[2,CURRENT]/#/:}" 2>/dev/null)}")
	for line in $lines; do
		case $line in
		:files) compset -P '--*='; _files ;;
		:folders) compset -P '--*='; _files -/ ;;
		*)
			word=${line%%$'\t'*}
			described+=("${word//:/\\:}:${line#*$'\t'}")
			;;
		esac
	done
	(( $#described )) && _describe 'lab' described
}

if [[ $funcstack[1] == _lab ]]; then
	_lab "$@"
else
	compdef _lab lab
fi
