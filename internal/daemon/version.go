package daemon

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// Version identifies a build.
type Version struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// VersionOf returns the semantic version number with the facts that the Go tool
// has recorded in the binary.
func VersionOf(number string) Version {
	v := Version{Version: number, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
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

// String returns the version on one line, beginning with the program's name.
func (v Version) String() string {
	commit := ""
	if v.Commit != "" {
		commit = " (" + v.Commit + ")"
	}
	return fmt.Sprintf("edged %s%s %s %s", v.Version, commit, v.Platform, v.Go)
}

// Text writes the version as the control socket answers with it.
func (v Version) Text(w io.Writer) { fmt.Fprintln(w, v) }
