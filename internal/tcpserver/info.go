package tcpserver

import (
	"encoding/json"
	"net"
	"runtime"
	"sync"
)

// natsVersion is the last release of nats-server whose behaviour edged follows. Libraries choose
// their requests by it, so it is INFO's version. The additions of 2.11 are not supported.
const natsVersion = "2.10.29"

// info is the content of INFO. Clients take fields such as connect_urls for promises, so no further fields are sent.
type info struct {
	ServerID   string `json:"server_id"`
	ServerName string `json:"server_name"`
	Version    string `json:"version"`
	Edged      string `json:"edged"` // edged's own version
	Proto      int    `json:"proto"` // 1: the server may send INFO at any time
	Go         string `json:"go"`
	Host       string `json:"host"`
	Port       int    `json:"port"`
	Headers    bool   `json:"headers"`
	JetStream  bool   `json:"jetstream,omitempty"`
	MaxPayload int    `json:"max_payload"`
	ClientID   uint64 `json:"client_id"`
	ClientIP   string `json:"client_ip,omitempty"`
	Auth       bool   `json:"auth_required,omitempty"`
	TLS        bool   `json:"tls_required,omitempty"`
	TLSVerify  bool   `json:"tls_verify,omitempty"` // clients must show certificates
	LameDuck   bool   `json:"ldm,omitempty"`
}

// infoLine returns the INFO for a client, with ldm when the server is shutting down.
func (c *client) infoLine(lameDuck bool) []byte {
	in := info{
		ServerID:   c.server.id,
		ServerName: c.server.opts.Name,
		Version:    natsVersion,
		Edged:      c.server.opts.Version,
		JetStream:  c.server.opts.API != nil,
		Proto:      1,
		Go:         runtime.Version(),
		Headers:    true,
		MaxPayload: c.server.opts.MaxPayload,
		ClientID:   c.id,
		ClientIP:   c.ip,
		Auth:       c.server.opts.Gate.Security().Closed(),
		TLS:        c.tls != nil,
		TLSVerify:  c.tls != nil && c.tls.verify,
		LameDuck:   lameDuck,
	}
	if addr, ok := c.conn.LocalAddr().(*net.TCPAddr); ok {
		in.Host, in.Port = addr.IP.String(), addr.Port
	}

	text, err := json.Marshal(in)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}

	line := append([]byte("INFO "), text...)
	return append(line, "\r\n"...)
}

// connectOptions are the options in CONNECT.
type connectOptions struct {
	Verbose      bool   `json:"verbose"`  // answer every command with +OK
	Pedantic     bool   `json:"pedantic"` // check the subjects of messages
	Echo         *bool  `json:"echo"`     // false: do not send the client its own messages
	Headers      bool   `json:"headers"`
	NoResponders bool   `json:"no_responders"`
	Name         string `json:"name"`
	Lang         string `json:"lang"`
	Version      string `json:"version"`
	Protocol     int    `json:"protocol"`
	User         string `json:"user"`
	Password     string `json:"pass"`
	Token        string `json:"auth_token"`
}

// parseConnect parses the argument of CONNECT, in a goroutine of its own: the stack of the client's
// goroutine would grow to 8 KiB here and stay that large.
func parseConnect(arg []byte) (connectOptions, error) {
	var o connectOptions
	var err error
	var parsing sync.WaitGroup
	parsing.Go(func() { err = json.Unmarshal(arg, &o) })
	if parsing.Wait(); err != nil {
		return o, errUnknownOperation
	}
	switch {
	case o.Protocol < 0 || o.Protocol > 1:
		return o, errClientProtocol
	case o.NoResponders && !o.Headers:
		return o, errNoResponders
	}
	return o, nil
}
