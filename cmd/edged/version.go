package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// version is a semantic version: NATS clients read it in INFO.
var version = "0.1.0" // set by the Makefile's VERSION

// versionInfo is what `edged version` and the control socket's say.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func currentVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				v.Commit = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true": // comes behind the revision
				v.Commit += "+changes"
			}
		}
	}
	return v
}

func (v versionInfo) line() string {
	commit := ""
	if v.Commit != "" {
		commit = " (" + v.Commit + ")"
	}
	return fmt.Sprintf("edged %s%s %s %s", v.Version, commit, v.Platform, v.Go)
}

func (v versionInfo) Text(w io.Writer) { fmt.Fprintln(w, v.line()) }
