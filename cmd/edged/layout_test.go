package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFile is a Go file of the module.
type goFile struct {
	path    string // relative to the module's root
	folder  string
	test    bool
	syntax  *ast.File
	imports []string
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var all []goFile
	root := "../.."
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			s := goFile{path: rel, folder: filepath.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), syntax: file}
			for _, spec := range file.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				s.imports = append(s.imports, imported)
			}
			all = append(all, s)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	return all
}

// vocabulary lists the packages that components may import: they define terms that several
// components share. Only batch and auth import further ones of these.
var vocabulary = []string{
	"edged/internal/auth",
	"edged/internal/batch",
	"edged/internal/budget",
	"edged/internal/dedup",
	"edged/internal/flow",
	"edged/internal/nearest",
	"edged/internal/numbers",
	"edged/internal/password",
	"edged/internal/subject",
}

// Components know neither each other nor the configuration, so that each can be understood, tested
// and replaced alone. internal/daemon wires them, and only commands import it. They share the
// vocabulary.
func TestComponentsImportNoComponentBesideThem(t *testing.T) {
	for _, s := range goFiles(t) {
		if strings.HasPrefix(s.folder, "cmd/") || s.folder == "internal/daemon" {
			continue
		}

		allowed := slices.Clone(vocabulary)
		switch {
		case s.folder == "internal/batch":
			allowed = []string{"edged/internal/numbers"} // the items that a consumer has confirmed
		case s.folder == "internal/auth":
			allowed = []string{"edged/internal/password", "edged/internal/subject"}
		case slices.Contains(vocabulary, "edged/"+s.folder):
			allowed = nil
		case s.folder == "internal/poller":
			allowed = append(allowed, "edged/internal/redisconn", "edged/internal/ledger")
		case s.folder == "internal/ledger":
			allowed = append(allowed, "edged/internal/redisconn")
		}

		if s.test {
			allowed = append(allowed, "edged/"+s.folder, "edged/internal/redistest", "edged/internal/relay")
		}

		for _, imported := range s.imports {
			switch {
			case !strings.HasPrefix(imported, "edged/"), slices.Contains(allowed, imported):
			case imported == "edged/internal/config":
				t.Errorf("%s imports %s: give it Options of its own, which internal/daemon fills in", s.path, imported)
			default:
				t.Errorf("%s imports %s: give it an interface, and tie the two together in internal/daemon", s.path, imported)
			}
		}
	}
}

// The in-memory Redis belongs to cmd/edged-dev.
func TestTheProductCarriesNoRedisAndNoLua(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, "edged/internal/daemon") {
		t.Fatalf("go list names only %d packages, and not internal/daemon", len(packages))
	}

	for _, imported := range packages {
		for _, kept := range []string{"github.com/alicebob/miniredis", "github.com/yuin/gopher-lua", "edged/internal/redistest", "testing"} {
			if imported == kept || strings.HasPrefix(imported, kept+"/") {
				t.Errorf("cmd/edged depends on %s", imported)
			}
		}
	}
}

func TestTestHelpersStayOutOfTheProgram(t *testing.T) {
	for _, s := range goFiles(t) {
		for _, imported := range s.imports {
			if !s.test && (imported == "edged/internal/redistest" || imported == "edged/internal/edgedtest") {
				t.Errorf("%s imports %s, which is for tests", s.path, imported)
			}
		}
	}
}

func TestOnlyThePackagesThatTalkToRedisKnowItsLibrary(t *testing.T) {
	allowed := []string{"internal/redisconn", "internal/poller", "internal/inbound", "internal/redistest"}
	for _, s := range goFiles(t) {
		for _, imported := range s.imports {
			if !s.test && strings.HasPrefix(imported, "github.com/redis/go-redis") && !slices.Contains(allowed, s.folder) {
				t.Errorf("%s imports %s: connections to Redis belong to internal/redisconn", s.path, imported)
			}
		}
	}
}

// The subscriber of cmd/edged is not a daemon and ends by signal.NotifyContext.
func TestOnlySignalsAsksForSignals(t *testing.T) {
	for _, s := range goFiles(t) {
		if s.test || s.folder == "internal/signals" || !slices.Contains(s.imports, "os/signal") {
			continue
		}
		if s.folder != "cmd/edged" {
			t.Errorf("%s imports os/signal: signals belong to internal/signals", s.path)
		}

		ast.Inspect(s.syntax, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Notify" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "signal" {
					t.Errorf("%s calls signal.Notify: that is for internal/signals alone", s.path)
				}
			}
			return true
		})
	}
}
