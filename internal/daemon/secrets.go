package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// readFile reads a file that a key of the configuration names. A name without a
// slash is that of a systemd credential. https://systemd.io/CREDENTIALS/
func readFile(key, name string) ([]byte, error) {
	path := name
	if !strings.Contains(name, "/") {
		folder := os.Getenv("CREDENTIALS_DIRECTORY")
		if folder == "" {
			return nil, fmt.Errorf("%s: %q has no slash, so it is the name of a systemd credential, and there are none ($CREDENTIALS_DIRECTORY is not set): "+
				"add LoadCredential=%s:/path/of/the/file to the unit, or write the path", key, name, name)
		}
		path = filepath.Join(folder, name)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", key, err)
	}
	return data, nil
}

// readSecret reads the first line of such a file; the empty name means none.
func readSecret(key, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := readFile(key, name)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New(key + ": the first line of " + name + " is empty")
	}
	return line, nil
}

// readPair reads the certificate and the key that cert_file and key_file below
// section name.
func readPair(section, certFile, keyFile string) (pair tls.Certificate, err error) {
	cert, err := readFile(section+".cert_file", certFile)
	if err != nil {
		return pair, err
	}
	key, err := readFile(section+".key_file", keyFile)
	if err != nil {
		return pair, err
	}
	if pair, err = tls.X509KeyPair(cert, key); err != nil {
		return pair, fmt.Errorf("%[1]s.cert_file, %[1]s.key_file: %[2]s and %[3]s: %[4]v", section, certFile, keyFile, err)
	}
	return pair, nil
}

// readAuthorities reads the certificates that ca_file below section names.
func readAuthorities(section, file string) (*x509.CertPool, error) {
	pem, err := readFile(section+".ca_file", file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s.ca_file: there is no certificate in %s: it must be PEM, with -----BEGIN CERTIFICATE-----", section, file)
	}
	return pool, nil
}
