package daemon

import (
	"crypto/tls"
	"net"

	"go.uber.org/zap"

	"edged/internal/auth"
	"edged/internal/config"
	"edged/internal/password"
)

// security returns what a Gate lets clients in by.
func (r *fileReader) security(cfg config.TCP) auth.Security {
	sec := auth.Security{
		TLS: r.serverTLS(cfg.TLS), TLSFirst: cfg.TLS.First,
		Token: auth.Secret(r.clientSecret("tcp.auth.token_file", cfg.Auth.TokenFile)),
	}
	for i, u := range cfg.Users {
		secret := u.Password
		if u.PasswordFile != "" {
			secret = r.clientSecret(config.Index("tcp.user", i)+".password_file", u.PasswordFile)
		}
		sec.Users = append(sec.Users, auth.User{
			Name: u.Name, Password: auth.Secret(secret),
			Publish: auth.Rules(u.Publish), Subscribe: auth.Rules(u.Subscribe), Durables: u.Durables,
		})
	}
	return sec
}

// serverTLS returns nil if there is to be no TLS.
func (r *fileReader) serverTLS(cfg config.TLS) *tls.Config {
	if cfg.CertFile == "" {
		return nil
	}
	const section = "tcp.tls"
	c := &tls.Config{MinVersion: tls.VersionTLS12, ClientCAs: r.authorities(section, cfg.CAFile)}
	if pair, ok := r.pair(section, cfg.CertFile, cfg.KeyFile); ok {
		c.Certificates = []tls.Certificate{pair}
	}
	if cfg.CAFile != "" {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c
}

// warnIfOpen says in the log if every host on a network can read the items at an address.
func warnIfOpen(cfg *config.Config, address net.Addr, log *zap.Logger) {
	if addr, ok := address.(*net.TCPAddr); ok && !addr.IP.IsLoopback() && open(cfg.TCP) {
		log.Warn("listening beyond loopback without authentication: whoever reaches the port gets the items",
			place(cfg, "tcp.listen"), zap.Stringer("address", addr))
	}
}

// open reports whether every client that reaches the port can connect.
func open(cfg config.TCP) bool {
	return cfg.Auth.TokenFile == "" && len(cfg.Users) == 0 && cfg.TLS.CAFile == ""
}

// clientSecret returns a client's password or token, in the clear or as a hash.
func (r *fileReader) clientSecret(key, name string) string {
	secret := r.secret(key, name)
	if cost, hashed := password.Cost(secret); hashed && !password.Allowed(secret) {
		r.problem(key, "the bcrypt hash in %s has a cost of %d, allowed are %d to %d: `edged passwd` makes one",
			name, cost, password.MinCost, password.MaxCost)
	}
	return secret
}
