package daemon

import (
	"crypto/tls"

	"edged/internal/config"
	"edged/internal/redisconn"
)

// redisOptions reads the files that the configuration names and says where Redis
// is and how to get in. The errors name the key.
func redisOptions(cfg config.Redis) (o redisconn.Options, err error) {
	o = redisconn.Options{
		Address: cfg.Address, Cluster: cfg.Cluster, Username: cfg.Username, DB: cfg.DB,
		Sentinel: redisconn.SentinelOptions{Addresses: cfg.Sentinel.Addresses, Master: cfg.Sentinel.Master, Username: cfg.Sentinel.Username},
	}
	if o.Password, err = readSecret("redis.password_file", cfg.PasswordFile); err != nil {
		return o, err
	}
	if o.Sentinel.Password, err = readSecret("redis.sentinel.password_file", cfg.Sentinel.PasswordFile); err != nil {
		return o, err
	}
	if cfg.TLS.Enabled {
		o.TLS, err = redisTLS(cfg.TLS)
	}
	return o, err
}

func redisTLS(cfg config.RedisTLS) (c *tls.Config, err error) {
	const section = "redis.tls"
	c = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
	if cfg.CAFile != "" {
		if c.RootCAs, err = readAuthorities(section, cfg.CAFile); err != nil {
			return nil, err
		}
	}
	if cfg.CertFile != "" {
		pair, err := readPair(section, cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
