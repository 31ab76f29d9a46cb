package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFile is a Go file of the module.
type goFile struct {
	path    string // below the module's root
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

// Components know no component beside them, so that each can be understood,
// tested and replaced alone; cmd/edged wires them. What they share is
// internal/batch, the vocabulary.
func TestComponentsImportNoComponentBesideThem(t *testing.T) {
	for _, s := range goFiles(t) {
		if strings.HasPrefix(s.folder, "cmd/") {
			continue
		}
		allowed := []string{"edged/internal/batch"}
		if s.test {
			allowed = append(allowed, "edged/"+s.folder, "edged/internal/redistest", "edged/internal/relay")
		}
		for _, imported := range s.imports {
			if strings.HasPrefix(imported, "edged/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s: give it an interface, and tie the two together in cmd/edged", s.path, imported)
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

func TestOnlyPollerAndInboundKnowTheRedisLibrary(t *testing.T) {
	allowed := []string{"internal/poller", "internal/inbound", "internal/redistest"}
	for _, s := range goFiles(t) {
		for _, imported := range s.imports {
			if !s.test && strings.HasPrefix(imported, "github.com/redis/go-redis") && !slices.Contains(allowed, s.folder) {
				t.Errorf("%s imports %s: what talks to Redis belongs to internal/poller, or to internal/inbound", s.path, imported)
			}
		}
	}
}

// The subscriber of cmd/edged, which is no daemon, ends by signal.NotifyContext.
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
