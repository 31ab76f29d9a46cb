package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"edged/internal/config"
	"edged/internal/poller"
)

// redisOptions reads the files that the configuration names and says where Redis
// is and how to get in. The errors name the key.
func redisOptions(cfg config.Redis) (o poller.RedisOptions, err error) {
	o = poller.RedisOptions{
		Address: cfg.Address, Cluster: cfg.Cluster, Username: cfg.Username, DB: cfg.DB,
		Sentinel: poller.SentinelOptions{Addresses: cfg.Sentinel.Addresses, Master: cfg.Sentinel.Master, Username: cfg.Sentinel.Username},
	}
	if o.Password, err = readPassword(cfg.PasswordFile); err != nil {
		return o, fmt.Errorf("redis.password_file: %v", err)
	}
	if o.Sentinel.Password, err = readPassword(cfg.Sentinel.PasswordFile); err != nil {
		return o, fmt.Errorf("redis.sentinel.password_file: %v", err)
	}
	if cfg.TLS.Enabled {
		o.TLS, err = tlsConfig(cfg.TLS)
	}
	return o, err
}

// readPassword reads the first line of a file; the empty path means none.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	data, err := readSecret(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New("the first line of " + path + " is empty")
	}
	return line, nil
}

// readSecret reads a file; a bare name is that of a systemd credential.
// https://systemd.io/CREDENTIALS/
func readSecret(path string) ([]byte, error) {
	if !strings.Contains(path, "/") {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("%q has no slash, so it is the name of a systemd credential, and there are none ($CREDENTIALS_DIRECTORY is not set): "+
				"add LoadCredential=%s:/path/of/the/file to the unit, or write the path", path, path)
		}
		path = filepath.Join(dir, path)
	}
	return os.ReadFile(path)
}

func tlsConfig(cfg config.RedisTLS) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
	if cfg.CAFile != "" {
		pem, err := readSecret(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis.tls.ca_file: %v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.tls.ca_file: there is no certificate in %s: it must be PEM, with -----BEGIN CERTIFICATE-----", cfg.CAFile)
		}
	}
	if cfg.CertFile == "" {
		return c, nil
	}
	cert, err := readSecret(cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("redis.tls.cert_file: %v", err)
	}
	key, err := readSecret(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("redis.tls.key_file: %v", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("redis.tls.cert_file, redis.tls.key_file: %v", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
