package daemon

import (
	"fmt"
	"io"

	"edged/internal/config"
)

// Describe writes a summary of a valid configuration.
func Describe(w io.Writer, cfg *config.Config) {
	read := "no file was read, and the defaults are"
	if file := cfg.File(); file != "" {
		read = "the configuration " + file + " is"
	}
	fmt.Fprintf(w, "%s good: %s from Redis at %s to clients at %s\n", read,
		counted(len(cfg.Lists), "list"), cfg.Redis.Where(), cfg.TCP.Listen)
	for _, l := range cfg.Lists {
		fmt.Fprintf(w, "list     %s, subject %s, ack %s, taken from the %s\n", printable(l.Key), l.Subject, l.Ack, l.TakeFrom)
	}
	for _, in := range cfg.Inbound {
		fmt.Fprintf(w, "inbound  %s to the list %s\n", in.Subject, printable(in.List))
	}
	if cfg.HTTP.Listen != "" {
		fmt.Fprintf(w, "http     at %s\n", cfg.HTTP.Listen)
	}
	fmt.Fprintf(w, "control  %s for operators", cfg.Control.Socket)
	if cfg.Control.StatusSocket != "" {
		fmt.Fprintf(w, ", %s for monitors", cfg.Control.StatusSocket)
	}
	fmt.Fprintln(w)
	allowed := allowedMemory(cfg)
	fmt.Fprintf(w, "memory   %d MiB at most", allowed>>20)
	if allowed > unitMemory {
		fmt.Fprintf(w, ", above MemoryMax=%dM of the unit as shipped: raise that, or lower tcp.memory", unitMemory>>20)
	}
	fmt.Fprintln(w)
}
