package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// licenseChoice is CycloneDX's wrapper of a license.
type licenseChoice struct {
	License license `json:"license"`
}

type license struct {
	ID   string      `json:"id"` // SPDX's
	Text licenseText `json:"text"`
}

type licenseText struct {
	Content string `json:"content"`
}

// addLicenses gives each part the licence in its folder. The first part is the
// standard library.
func addLicenses(parts []component) error {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	folders := []string{strings.TrimSpace(string(root))}
	modules, err := moduleFolders(parts[1:])
	if err != nil {
		return err
	}

	for i, folder := range append(folders, modules...) {
		l, err := licenseIn(folder)
		if err != nil {
			return fmt.Errorf("the licence of %s: %w", parts[i].Name, err)
		}
		parts[i].Licenses = []licenseChoice{{l}}
	}
	return nil
}

// moduleFolders returns the folder of each module in the module cache.
func moduleFolders(modules []component) ([]string, error) {
	args := []string{"mod", "download", "-json"}
	for _, m := range modules {
		args = append(args, m.Name+"@"+m.Version)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}

	byName := map[string]string{}
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := in.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		byName[m.Path] = m.Dir
	}
	var folders []string
	for _, m := range modules {
		folders = append(folders, byName[m.Name])
	}
	return folders, nil
}

// licenseIn reads the licence in a module's folder. The Apache licence asks for the
// NOTICE too, so that follows the text.
func licenseIn(folder string) (license, error) {
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING"} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return license{}, err
		}
		id := identify(string(text))
		if id == "" {
			return license{}, fmt.Errorf("%s is not a known one: add it to scripts/sbom, if edged may use it", filepath.Join(folder, name))
		}
		notice, err := os.ReadFile(filepath.Join(folder, "NOTICE"))
		if err == nil {
			text = append(append(text, '\n'), notice...)
		}
		return license{ID: id, Text: licenseText{string(text)}}, nil
	}

	return license{}, fmt.Errorf("%s has no file for it", folder)
}

// identify returns SPDX's name of a licence, or "" for an unknown one.
func identify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	has := func(phrase string) bool { return strings.Contains(text, phrase) }
	switch {
	case has("Apache License Version 2.0"):
		return "Apache-2.0"
	case has("Permission is hereby granted, free of charge"):
		return "MIT"
	case has("Redistributions of source code must retain") && has("Neither the name of"):
		return "BSD-3-Clause"
	case has("Redistributions of source code must retain"):
		return "BSD-2-Clause"
	}
	return ""
}
