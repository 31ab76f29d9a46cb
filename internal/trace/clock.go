package trace

import (
	"runtime/debug"
	"time"
)

// clockNow returns the line of the first step.
func clockNow() Line {
	yes, known := synchronized()
	f := clock(time.Now(), built(), yes, known)
	return Line{Step: "clock", Result: f.result, Text: f.words()}
}

// built returns a time before which this program cannot have been built.
func built() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return at
			}
		}
	}
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
}

// clock judges whether the clock is good enough to check certificates.
func clock(now, built time.Time, synchronized, known bool) finding {
	const day = 24 * time.Hour
	text := now.UTC().Format("2006-01-02 15:04:05 MST")
	switch {
	case now.Before(built.Add(-day)):
		return finding{Warn, text + " is before this edged was made", "no certificate is valid yet; set the clock, see timedatectl"}
	case now.After(built.AddDate(20, 0, 0)):
		return finding{Warn, text + " is 20 years after this edged was made", "certificates have expired; set the clock, see timedatectl"}
	case known && !synchronized:
		return warn("%s, not synchronized: certificates may look expired, or not yet valid", text)
	case known:
		return ok("%s, synchronized", text)
	}
	return ok("%s; whether it is synchronized can't be read", text)
}
