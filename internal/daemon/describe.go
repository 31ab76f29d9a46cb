package daemon

import (
	"fmt"
	"io"

	"edged/internal/config"
)

// Describe writes a summary of a valid configuration.
func Describe(w io.Writer, cfg *config.Config) {
	fmt.Fprintf(w, "the configuration is good: %s from Redis at %s to clients at %s\n",
		counted(len(cfg.Lists), "list"), cfg.Redis.Where(), cfg.TCP.Listen)
	for _, l := range cfg.Lists {
		fmt.Fprintf(w, "list     %s, subject %s, ack %s, taken from the %s\n", printable(l.Key), l.Subject, l.Ack, l.TakeFrom)
	}
	for _, in := range cfg.Inbound {
		fmt.Fprintf(w, "inbound  %s to the list %s\n", in.Subject, printable(in.List))
	}
	fmt.Fprintf(w, "control  %s for operators", cfg.Control.Socket)
	if cfg.Control.StatusSocket != "" {
		fmt.Fprintf(w, ", %s for monitors", cfg.Control.StatusSocket)
	}
	fmt.Fprintln(w)
}
