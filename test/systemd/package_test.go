package systemd

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	mdFence   = regexp.MustCompile("(?ms)^```.*?^```$")
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdHeading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names of a document's headings in links.
func anchors(document string) map[string]bool {
	names := map[string]bool{}
	for _, heading := range mdHeading.FindAllStringSubmatch(mdFence.ReplaceAllString(document, ""), -1) {
		text := notInSlug.ReplaceAllString(strings.ToLower(heading[1]), "")
		names[strings.ReplaceAll(text, " ", "-")] = true
	}
	return names
}

func TestThePackagesDocumentsHaveNoDeadLinks(t *testing.T) {
	unpacked := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", root+makePackage(t, shipped), unpacked).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}

	links := 0
	if err := filepath.WalkDir(unpacked, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		document, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, link := range mdLink.FindAllStringSubmatch(mdFence.ReplaceAllString(string(document), ""), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			checkLink(t, strings.TrimPrefix(path, unpacked), path, link[1])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// checkLink checks a link of the document at path, which the package names name.
func checkLink(t *testing.T, name, path, link string) {
	t.Helper()
	file, anchor, _ := strings.Cut(link, "#")
	target := path
	if file != "" {
		target = filepath.Join(filepath.Dir(path), file)
	}

	info, err := os.Stat(target)
	if err != nil {
		t.Errorf("%s: the link %s is dead: %v", name, link, err)
		return
	}
	if anchor == "" || info.IsDir() {
		return
	}
	text, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if !anchors(string(text))[anchor] {
		t.Errorf("%s: the link %s leads to no heading", name, link)
	}
}
