package daemon

import (
	"crypto/tls"
	"fmt"
	"net"

	"go.uber.org/zap"

	"edged/internal/config"
	"edged/internal/password"
	"edged/internal/tcpserver"
)

// security reads the files that the configuration names and makes of them what
// the TCP server lets clients in by.
func security(cfg config.TCP) (sec tcpserver.Security, err error) {
	if sec.TLS, err = tlsConfig(cfg.TLS); err != nil {
		return sec, err
	}
	sec.TLSFirst = cfg.TLS.First
	token, err := readClientSecret("tcp.auth.token_file", cfg.Auth.TokenFile)
	if err != nil {
		return sec, err
	}
	sec.Token = tcpserver.Secret(token)
	for i, u := range cfg.Users {
		secret := u.Password
		if u.PasswordFile != "" {
			if secret, err = readClientSecret(fmt.Sprintf("tcp.user[%d].password_file", i), u.PasswordFile); err != nil {
				return sec, err
			}
		}
		sec.Users = append(sec.Users, tcpserver.User{
			Name: u.Name, Password: tcpserver.Secret(secret),
			Publish: tcpserver.Rules(u.Publish), Subscribe: tcpserver.Rules(u.Subscribe),
		})
	}
	return sec, nil
}

// tlsConfig returns nil where there is to be no TLS.
func tlsConfig(cfg config.TLS) (*tls.Config, error) {
	if cfg.CertFile == "" {
		return nil, nil
	}
	const section = "tcp.tls"
	pair, err := readPair(section, cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		if c.ClientCAs, err = readAuthorities(section, cfg.CAFile); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// warnIfOpen says in the log if every host on a network can read the items.
func (d *daemon) warnIfOpen() {
	if addr, ok := d.address.(*net.TCPAddr); ok && !addr.IP.IsLoopback() && open(d.served.config().TCP) {
		d.log.Warn("listening beyond loopback without authentication: whoever reaches the port gets the items",
			zap.Stringer("address", addr))
	}
}

// open reports whether every client that reaches the port can connect.
func open(cfg config.TCP) bool {
	return cfg.Auth.TokenFile == "" && len(cfg.Users) == 0 && cfg.TLS.CAFile == ""
}

// readClientSecret reads a client's password or token, in the clear or as a hash.
func readClientSecret(key, name string) (string, error) {
	secret, err := readSecret(key, name)
	if err != nil {
		return "", err
	}
	if cost, hashed := password.Cost(secret); hashed && !password.Allowed(secret) {
		return "", fmt.Errorf("%s: the bcrypt hash in %s has a cost of %d, allowed are %d to %d: `edged passwd` makes one",
			key, name, cost, password.MinCost, password.MaxCost)
	}
	return secret, nil
}
