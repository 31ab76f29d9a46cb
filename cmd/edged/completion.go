package main

import (
	"fmt"
	"io"
	"strings"

	"edged/internal/daemon"
	"edged/internal/uds"
)

const completionUsage = `usage: edged completion bash|zsh

Prints what makes the shell complete edged's commands:
  bash: source <(edged completion bash)     in ~/.bashrc
  zsh:  edged completion zsh > _edged       in a folder of $fpath
`

// subcommand is a word that can follow edged.
type subcommand struct {
	name, summary string
	words         []string // words that can follow it; nil for paths of files
}

// subcommands returns them in the order of the usage.
func subcommands() []subcommand {
	ctl := []string{"-config", "-socket", "help"}
	for _, c := range daemon.Commands() {
		ctl = append(ctl, c.Name)
	}
	return []subcommand{
		{"check", "say all that is wrong with a configuration", nil},
		{"ctl", "send a command to the daemon that runs", ctl},
		{"sub", "print the messages of subjects", append([]string{"-ack", "-count", "-json", "-queue", "-raw", "-reconnect=false", "-timeout"}, connectFlags...)},
		{"pub", "publish to a list that clients write to", append([]string{"-timeout"}, connectFlags...)},
		{"passwd", "print the bcrypt hash of a password", []string{}},
		{"version", "version, commit, platform and Go version", []string{}},
		{"completion", "make the shell complete commands", []string{"bash", "zsh"}},
		{"help", "explain it all", []string{}},
	}
}

// commandNames returns the names of the subcommands.
func commandNames() (names []string) {
	for _, s := range subcommands() {
		names = append(names, s.name)
	}
	return names
}

func runCompletion(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged completion", completionUsage, stdout, stderr)
	if code, done := parse(flags, args, 1, 1); done {
		return code
	}
	switch flags.Arg(0) {
	case "bash":
		writeBash(stdout)
	case "zsh":
		writeZsh(stdout, daemon.Commands())
	default:
		fmt.Fprintf(stderr, "edged completion: there is no shell %q here\n%s", flags.Arg(0), completionUsage)
		return exitUsage
	}
	return exitOK
}

func writeBash(w io.Writer) {
	names := append([]string{"-config", "-h"}, commandNames()...)
	fmt.Fprintf(w, `_edged() {
  local word=${COMP_WORDS[COMP_CWORD]} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words=%q
  else
    case ${COMP_WORDS[1]}/${COMP_WORDS[COMP_CWORD-1]} in
      -config/* | check/* | ctl/-config | ctl/-socket | [sp]ub/-*-file | [sp]ub/-creds) COMPREPLY=($(compgen -f -- "$word")); return ;;
`, strings.Join(names, " "))

	for _, s := range subcommands() {
		if len(s.words) == 0 {
			continue
		}
		switch s.name {
		case "ctl":
			fmt.Fprintf(w, "      ctl/ctl | ctl/help | ctl/*.sock | ctl/*.toml) words=%q ;;\n", strings.Join(s.words, " "))
		case "completion":
			fmt.Fprintf(w, "      completion/completion) words=%q ;;\n", strings.Join(s.words, " "))
		default:
			fmt.Fprintf(w, "      %s/*) words=%q ;;\n", s.name, strings.Join(s.words, " "))
		}
	}

	fmt.Fprint(w, `    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _edged edged
`)
}

// writeZsh writes a function for zsh's completion system, zshcompsys(1).
func writeZsh(w io.Writer, commands []uds.Command) {
	list := func(name string, each func(entry func(name, summary string))) {
		fmt.Fprintf(w, "  local -a %s=(\n", name)
		each(func(name, summary string) {
			fmt.Fprintf(w, "    '%s:%s'\n", name, strings.ReplaceAll(summary, "'", `'\''`))
		})
		fmt.Fprintln(w, "  )")
	}

	fmt.Fprintln(w, "#compdef edged\n_edged() {")
	list("subcommands", func(entry func(name, summary string)) {
		for _, s := range subcommands() {
			entry(s.name, s.summary)
		}
	})

	list("commands", func(entry func(name, summary string)) {
		entry("help", "list the commands, or explain one")
		for _, c := range commands {
			entry(c.Name, c.Summary)
		}
	})

	fmt.Fprint(w, `  if (( CURRENT == 2 )); then
    _describe command subcommands
    return
  fi
  case $words[2]/$words[CURRENT-1] in
    -config/*|check/*|ctl/-config|ctl/-socket|[sp]ub/-*-file|[sp]ub/-creds) _files ;;
    ctl/ctl|ctl/help|ctl/*.sock|ctl/*.toml) _describe command commands ;;
    completion/completion) _values shell bash zsh ;;
  esac
}
_edged "$@"
`)
}
