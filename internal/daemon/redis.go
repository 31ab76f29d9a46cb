package daemon

import (
	"edged/internal/config"
	"edged/internal/redisconn"
)

// redis returns where Redis is and how to get in.
func (r *fileReader) redis(cfg config.Redis) redisconn.Options {
	o := redisconn.Options{
		Address: cfg.Address, Cluster: cfg.Cluster, Username: cfg.Username, DB: cfg.DB,
		Password: r.secret("redis.password_file", cfg.PasswordFile),
		Sentinel: redisconn.SentinelOptions{
			Addresses: cfg.Sentinel.Addresses, Master: cfg.Sentinel.Master, Username: cfg.Sentinel.Username,
			Password: r.secret("redis.sentinel.password_file", cfg.Sentinel.PasswordFile),
		},
	}
	if cfg.TLS.Enabled {
		o.TLS = r.clientTLS("redis.tls", cfg.TLS)
	}
	return o
}
