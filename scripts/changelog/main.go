// Command changelog VERSION DATE gives the section Unreleased of CHANGELOG.md the version and the
// date. A version that already has its section keeps it. It runs in the module's root.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

const file = "CHANGELOG.md"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: changelog VERSION DATE")
		os.Exit(2)
	}
	if err := update(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
		os.Exit(1)
	}
}

func update(version, date string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	released, err := release(string(text), version, date)
	if err != nil || released == string(text) {
		return err
	}
	return os.WriteFile(file, []byte(released), 0o644)
}

var unreleased = regexp.MustCompile(`(?m)^## Unreleased$`)

// release returns the changelog with the section of this version.
func release(text, version, date string) (string, error) {
	dated := regexp.MustCompile(`(?m)^## ` + regexp.QuoteMeta(version) + ` - \d{4}-\d{2}-\d{2}$`).MatchString(text)
	open := unreleased.MatchString(text)
	switch {
	case dated && open:
		return "", fmt.Errorf("%s is released, and there are changes since: raise VERSION", version)
	case dated:
		return text, nil
	case !open:
		return "", errors.New("no changes are listed: write them under \"## Unreleased\"")
	default:
		return unreleased.ReplaceAllLiteralString(text, "## "+version+" - "+date), nil
	}
}
