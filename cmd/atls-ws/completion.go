package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// The program itself says what can follow: --generate-bash-completion.
const bashCompletion = `_atls_ws() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}") cur="${COMP_WORDS[$COMP_CWORD]}"
  if [[ "$cur" == -* ]]; then words+=("$cur"); fi
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _atls_ws atls-ws
`

const zshCompletion = `#compdef atls-ws
_atls_ws() {
  local -a out
  local cur=${words[CURRENT]}
  if [[ "$cur" == -* ]]; then
    out=("${(@f)$(_CLI_ZSH_AUTOCOMPLETE_HACK=1 ${words[1,CURRENT-1]} ${cur} --generate-bash-completion 2>/dev/null)}")
  else
    out=("${(@f)$(_CLI_ZSH_AUTOCOMPLETE_HACK=1 ${words[1,CURRENT-1]} --generate-bash-completion 2>/dev/null)}")
  fi
  if [[ -n "${out[1]}" ]]; then _describe 'values' out; else _files; fi
}
compdef _atls_ws atls-ws
`

func completionCommand() *cli.Command {
	print := func(script string) cli.ActionFunc {
		return func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		}
	}
	return &cli.Command{
		Name:  "completion",
		Usage: "print a shell's completion script",
		Description: "bash:  source <(atls-ws completion bash)\n" +
			"zsh:   source <(atls-ws completion zsh)",
		Subcommands: []*cli.Command{
			{Name: "bash", Usage: "for bash", Action: print(bashCompletion)},
			{Name: "zsh", Usage: "for zsh, after compinit", Action: print(zshCompletion)},
		},
	}
}
