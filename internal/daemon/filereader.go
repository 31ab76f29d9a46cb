package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"time"

	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/config"
	"edged/internal/redisconn"
)

// contents are made of the files that a start needs.
type contents struct {
	redis    redisconn.Options
	security auth.Security
}

// readFiles reads the files that a start needs. The error has a line for each problem.
func readFiles(cfg *config.Config, log *zap.Logger) (contents, error) {
	r := fileReader{cfg: cfg, log: log}
	c := r.contents()
	return c, r.err()
}

// fileReader reads the files that keys of a configuration name. It goes on after a problem, so that it
// finds all of them; what it returns is worth nothing then.
type fileReader struct {
	cfg      *config.Config
	log      *zap.Logger // of warnings
	outside  bool        // of the service: without systemd's credentials, which are not read
	read     int         // number of files that it has read
	unread   []string    // the keys of credentials that it has not read
	problems []string
}

func (r *fileReader) contents() contents {
	return contents{redis: r.redis(r.cfg.Redis), security: r.security(r.cfg.TCP)}
}

// err returns an error with a line for each problem, or nil if there is none.
func (r *fileReader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.problems, "\n"))
}

func (r *fileReader) problem(key, format string, args ...any) {
	text := key + ": " + fmt.Sprintf(format, args...)
	if place := r.cfg.Place(key); place != "" {
		text = place + ": " + text
	}
	r.problems = append(r.problems, text)
}

// path returns the path of a file. It is empty if the key names none, or one that can't be read.
func (r *fileReader) path(key, name string) string {
	path, err := pathOf(name)
	switch {
	case err == nil:
		return path
	case r.outside && errors.Is(err, errNoCredentials):
		r.unread = append(r.unread, key)
	default:
		r.problem(key, "%v", err)
	}
	return ""
}

// file returns the content of a file. ok is false if the key names none, or one that can't be read.
func (r *fileReader) file(key, name string) (data []byte, ok bool) {
	path := r.path(key, name)
	if path == "" {
		return nil, false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		r.problem(key, "%v%s", err, remedy(err))
		return nil, false
	}
	r.read++
	return data, true
}

// remedy says what to do about a file that can't be read.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ": make the file, or name the right one"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf(": let the user %s read it, or make it a systemd credential", userName())
	}
	return ""
}

// userName is the name of the user that runs this process, or its number.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Geteuid())
}

// secret returns the first line of a file. It is empty if the key names no file.
func (r *fileReader) secret(key, name string) string {
	data, ok := r.file(key, name)
	if !ok {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		r.problem(key, "the first line of %s is empty: write the secret there", name)
	}
	return line
}

// pair returns the certificate with its key that cert_file and key_file below section name. ok is false
// if they name none, or one that can't be used.
func (r *fileReader) pair(section, certFile, keyFile string) (pair tls.Certificate, ok bool) {
	cert, haveCert := r.file(section+".cert_file", certFile)
	key, haveKey := r.file(section+".key_file", keyFile)
	if !haveCert || !haveKey {
		return pair, false
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		r.problem(section+".cert_file", "%s with the key_file %s: %v: name a certificate and its own key, both PEM", certFile, keyFile, err)
		return pair, false
	}
	r.warnOfTime(section+".cert_file", certFile, pair.Leaf)
	return pair, true
}

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

// warnOfTime says in the log if a certificate is not valid now, or soon will not be.
func (r *fileReader) warnOfTime(key, file string, cert *x509.Certificate) {
	about := []zap.Field{place(r.cfg, key), zap.String("file", file)}
	switch now := time.Now(); {
	case now.Before(cert.NotBefore):
		r.log.Warn("the certificate is not valid yet; is the clock right?", append(about, zap.Time("from", cert.NotBefore))...)
	case now.After(cert.NotAfter):
		r.log.Warn("the certificate has expired; renew it, then reload", append(about, zap.Time("expired", cert.NotAfter))...)
	case now.Add(soon).After(cert.NotAfter):
		r.log.Warn("the certificate expires soon; renew it, then reload", append(about, zap.Time("expires", cert.NotAfter))...)
	}
}

// authorities returns the certificates that ca_file below section names; nil if it names none.
func (r *fileReader) authorities(section, name string) *x509.CertPool {
	key := section + ".ca_file"
	pem, ok := r.file(key, name)
	if !ok {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		r.problem(key, "there is no certificate in %s: it must be PEM, with -----BEGIN CERTIFICATE-----", name)
	}
	return pool
}

// clientTLS returns the TLS of a connection that edged makes.
func (r *fileReader) clientTLS(section string, cfg config.ClientTLS) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, RootCAs: r.authorities(section, cfg.CAFile)}
	if pair, ok := r.pair(section, cfg.CertFile, cfg.KeyFile); ok {
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}
