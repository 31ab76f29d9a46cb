package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The document names the tests that verify its promises.
func TestTheTestsThatTheSecurityDocumentNamesExist(t *testing.T) {
	defined := map[string]bool{}
	define := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range define.FindAllSubmatch(text, -1) {
			defined[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w+)`").FindAllStringSubmatch(readDoc(t, "../../docs/SECURITY.md"), -1)
	if len(named) < 80 {
		t.Errorf("it names %d tests", len(named))
	}
	for _, name := range named {
		if !defined[name[1]] {
			t.Errorf("there is no %s", name[1])
		}
	}
}
