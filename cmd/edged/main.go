// Command edged relays the items of Redis lists to TCP clients that speak the NATS protocol, and
// loses none. See README.md, and docs/ARCHITECTURE.md for its design.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"edged/internal/config"
	"edged/internal/daemon"
	"edged/internal/nearest"
	"edged/internal/systemd"
)

// Exit codes. systemd is told not to restart after exitConfig: a person must correct the
// configuration. Files that it names may appear later.
const (
	exitOK     = 0
	exitFailed = daemon.ExitFailed
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h
)

// version is a semantic version.
var version = "0.1.0" // set by the Makefile's VERSION

// defaultConfig is read if it exists and no other file is named.
const defaultConfig = "/etc/edged/edged.toml"

const usage = `edged relays the items of Redis lists to TCP clients, and loses none.

  edged [-config FILE]        serve; without -config: the file
                              ` + defaultConfig + `, or the defaults
  edged check [FILE]          say all that keeps edged from starting, all that a
                              start warns of, and what it would run
  edged ctl COMMAND...        send a command to the daemon (edged ctl help)
  edged sub SUBJECT...        print the messages of subjects
  edged pub SUBJECT [TEXT]    publish to a list that clients write to
  edged passwd                ask for a password and print its bcrypt hash
  edged version               version, commit, platform and Go version
  edged completion bash|zsh   make the shell complete all this
Each of these explains itself: edged ctl -h.

SIGHUP, SIGINT, SIGTERM and SIGQUIT drain: clients are told, what is on its way
arrives, what nobody confirmed stays in Redis. A second signal does not wait.
Exit codes: 0 drained, 1 could not start (try again), 2 wrong usage, 78 bad
configuration (mend it; 1 if systemd holds the sockets).
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without globals; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		if command := commandNamed(args[0]); command != nil {
			return command(args[1:], stdout, stderr)
		}
	}
	flags := newFlags("edged", usage, stdout, stderr)
	file := flags.String("config", "", "")
	dev := flags.Bool("dev", false, "")
	if code, done := parseFlags(flags, args); done {
		return code
	}
	if *dev {
		fmt.Fprintln(stderr, "edged: -dev is a program of its own now: make run, or bin/edged-dev")
		return exitUsage
	}
	if flags.NArg() > 0 {
		return runAfterConfig(*file, flags.Arg(0), flags.Args()[1:], stdout, stderr)
	}

	cfg, code := load(*file, stderr)
	if cfg == nil {
		if systemd.HoldsSockets() {
			return exitFailed // try again, or each waiting client starts edged at once, until systemd gives up
		}
		return code
	}
	return daemon.Main(context.Background(), daemon.Options{
		Config:  cfg,
		Reread:  func() (*config.Config, error) { return read(*file) },
		Version: version,
		Stderr:  stderr,
	})
}

// A command runs a subcommand with the arguments after its name, and returns the exit code.
type command func(args []string, stdout, stderr io.Writer) int

// commandNamed returns nil if there is no command with that name.
func commandNamed(name string) command {
	switch name {
	case "sub":
		return runSub
	case "pub":
		return withStdin(runPub)
	case "check":
		return runCheck
	case "passwd":
		return withStdin(runPasswd)
	case "ctl":
		return runCtl
	case "completion":
		return runCompletion
	case "version", "-version", "--version":
		return func(_ []string, stdout, _ io.Writer) int {
			fmt.Fprintln(stdout, daemon.VersionOf(version))
			return exitOK
		}
	case "help":
		return func(_ []string, stdout, _ io.Writer) int {
			fmt.Fprint(stdout, usage)
			return exitOK
		}
	}

	return nil
}

func withStdin(run func(args []string, stdin io.Reader, stdout, stderr io.Writer) int) command {
	return func(args []string, stdout, stderr io.Writer) int { return run(args, os.Stdin, stdout, stderr) }
}

// runAfterConfig runs the command that follows -config FILE, which becomes a flag of the command.
func runAfterConfig(file, name string, args []string, stdout, stderr io.Writer) int {
	if command := commandNamed(name); command != nil {
		if file != "" {
			args = append([]string{"-config", file}, args...)
		}
		return command(args, stdout, stderr)
	}
	hint := ""
	if meant := nearest.Name(strings.ToLower(name), commandNames()); meant != "" {
		hint = fmt.Sprintf("did you mean %q? ", meant)
	}
	fmt.Fprintf(stderr, "edged: there is no command %.40q; %s\"edged help\" lists the commands\n", name, hint)
	return exitUsage
}

// read reads the configuration.
func read(file string) (*config.Config, error) {
	named := file != ""
	if !named {
		file = defaultConfig
	}
	cfg, err := config.Load(file)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return config.Load("")
	}
	return cfg, err
}

// load reads the configuration, or prints its errors.
func load(file string, stderr io.Writer) (*config.Config, int) {
	cfg, err := read(file)
	if err == nil {
		return cfg, exitOK
	}
	fmt.Fprintf(stderr, "edged: %v\n", err)
	if _, mistake := errors.AsType[*config.Error](err); mistake {
		return nil, exitConfig
	}
	return nil, exitFailed
}

const checkUsage = `usage: edged check [[-config] FILE]

Reads FILE (default ` + defaultConfig + `), the files that it names and the
folders of the sockets as a start would, and says what is wrong, what a start would
warn of, and what it can't know outside of the service. It changes nothing and
uses no network.

Exit codes: those of a start: 0 it would serve, 1 it would fail, 78 bad configuration.
`

func runCheck(args []string, stdout, stderr io.Writer) int {
	flags := newFlags("edged check", checkUsage, stdout, stderr)
	file := flags.String("config", "", "")
	if code, done := parse(flags, args, 0, 1); done {
		return code
	}
	if flags.NArg() > 0 {
		if *file != "" {
			fmt.Fprintf(stderr, "edged check: %s and %s are two configurations: check one at a time\n", *file, flags.Arg(0))
			return exitUsage
		}
		*file = flags.Arg(0)
	}

	cfg, code := load(*file, stderr)
	if cfg == nil {
		return code
	}
	if cfg.File() == "" {
		fmt.Fprintf(stdout, "there is no %s\n", defaultConfig)
	}
	if !daemon.Check(stdout, stderr, cfg) {
		return exitFailed
	}
	daemon.Describe(stdout, cfg)
	return exitOK
}

// flagSet holds the flags of a command. Its usage goes to stdout if it was requested and to stderr
// after a mistake.
type flagSet struct {
	*flag.FlagSet
	usage          string
	stdout, stderr io.Writer
}

func newFlags(name, usage string, stdout, stderr io.Writer) flagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	return flagSet{flags, usage, stdout, stderr}
}

// parseFlags parses the flags before the first argument. If done is true the program ends with
// code.
func parseFlags(flags flagSet, args []string) (code int, done bool) {
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(flags.stdout, flags.usage)
		return exitOK, true
	}
	if err != nil { // flags has printed the reason
		fmt.Fprint(flags.stderr, flags.usage)
		return exitUsage, true
	}
	return exitOK, false
}

// parse parses flags and checks the number of arguments after them. Flags may also follow the
// arguments. If done is true the program ends with code.
func parse(flags flagSet, args []string, least, most int) (code int, done bool) {
	var rest []string
	for {
		if code, done := parseFlags(flags, args); done {
			return code, true
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}

	if n := len(rest); n < least || n > most {
		what := "an argument is missing"
		if n > most {
			what = "unexpected arguments: " + strings.Join(rest[most:], " ")
		}
		fmt.Fprintf(flags.stderr, "%s: %s\n%s", flags.Name(), what, flags.usage)
		return exitUsage, true
	}

	if err := flags.Parse(append([]string{"--"}, rest...)); err != nil {
		return exitUsage, true
	}
	return exitOK, false
}
