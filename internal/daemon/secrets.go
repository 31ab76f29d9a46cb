package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"edged/internal/config"
)

var errNoCredentials = errors.New("there are none ($CREDENTIALS_DIRECTORY is not set)")

// pathOf returns the path of a file that the configuration names. A name without a slash
// is that of a systemd credential. https://systemd.io/CREDENTIALS/
func pathOf(name string) (string, error) {
	if !isCredential(name) {
		return name, nil
	}
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	if folder == "" {
		return "", fmt.Errorf("%q has no slash, so it is the name of a systemd credential, and %w: "+
			"add LoadCredential=%s:/path/of/the/file to the unit, or write the path", name, errNoCredentials, name)
	}
	return filepath.Join(folder, name), nil
}

// isCredential reports whether a name is that of a systemd credential.
func isCredential(name string) bool { return name != "" && !strings.Contains(name, "/") }

// credentials returns the keys that name a systemd credential. systemd makes these files
// when it starts the service, and does not change them while it runs.
func credentials(cfg *config.Config) []string {
	r, t := &cfg.Redis, &cfg.TCP
	keys, names := []string{
		"redis.password_file", "redis.sentinel.password_file", "redis.tls.ca_file", "redis.tls.cert_file", "redis.tls.key_file",
		"tcp.tls.ca_file", "tcp.tls.cert_file", "tcp.tls.key_file", "tcp.auth.token_file",
	}, []string{
		r.PasswordFile, r.Sentinel.PasswordFile, r.TLS.CAFile, r.TLS.CertFile, r.TLS.KeyFile,
		t.TLS.CAFile, t.TLS.CertFile, t.TLS.KeyFile, t.Auth.TokenFile,
	}
	for i, u := range t.Users {
		keys, names = append(keys, config.Index("tcp.user", i)+".password_file"), append(names, u.PasswordFile)
	}
	for i, u := range cfg.Uplinks {
		for _, file := range uplinkFiles(&u) {
			keys, names = append(keys, config.Index("uplink", i)+"."+file.key), append(names, *file.name)
		}
	}
	all := []string{}
	for i, name := range names {
		if isCredential(name) {
			all = append(all, keys[i])
		}
	}
	return all
}
